"""Frames from the wire, through XDP and the perf ring, and from capture files."""
