"""Capture from network interfaces: the kernel program, its attachment, perf rings, flow table and NIC."""
