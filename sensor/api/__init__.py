"""The evidence API. Runs in a process of its own and reads only the evidence directory and the rules."""
