"""Compile rules in a process of its own, with limits on CPU time and memory and nearly no rights."""
