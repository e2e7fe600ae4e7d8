"""``sensor doctor``: looks at everything that capturing depends on, and captures nothing.

Each module looks at one thing and yields a `sensor.finding.Finding` for what it saw, good or bad.
"""
