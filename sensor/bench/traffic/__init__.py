"""A generator of seeded traffic for demonstrations, tests and measurements, which writes capture files.

Runs as ``python -m sensor.bench.traffic``, in ``sensor bench replay``, in the demo and in tests. Each module
knows only those before it: `frames` (bytes), `conversations` (connections with their timing), `ordinary`,
`bulk` and `notable` (their contents), `mix` (the demo's traffic) and `profiles` (traffic for measurements).
"""
