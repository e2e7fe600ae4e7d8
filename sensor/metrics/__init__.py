"""Metrics: all figures that the sensor shows to the outside, and the process that serves them.

The supervisor publishes its figures in a `snapshot`. The `exporter`, a separate process, reads that and the
kernel's maps at each request. Capture never waits for it.
"""
