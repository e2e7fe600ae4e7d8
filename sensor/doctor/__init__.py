"""``sensor doctor``: checks everything that capturing depends on, and captures nothing.

Each module checks one part of the host and yields a `sensor.finding.Finding` for each result, good or bad.
Runs in the process of the command.
"""
