"""The evidence API: reads the evidence directory and nothing else, in a process of its own."""
