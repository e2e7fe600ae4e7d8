"""Seeded traffic for demonstrations, tests and measurements, as capture files.

Runs as a program of its own (``python -m sensor.bench.traffic``), and inside the tests. Rooms, each
knowing only those before it: `frames` (bytes), `conversations` (who says what when),
`ordinary`, `bulk` and `notable` (what is said), `mix` (the demo's) and `profiles` (how much of each).
"""
