"""Metrics: every figure that can be seen from outside, and the process that serves them.

The supervisor publishes what it counts on a `board`; the `exporter`, a process of its own, reads that
and the kernel's maps when it is asked. Capture never waits for it.
"""
