"""Seeded traffic for demonstrations, tests and measurements, as capture files.

Runs as a program of its own (``python -m bench.traffic``), and inside the tests. Rooms, each
knowing only those before it: `frames` (bytes), `conversations` (who says what when),
`ordinary` and `notable` (what is said), `mix` (how much of each).
"""
