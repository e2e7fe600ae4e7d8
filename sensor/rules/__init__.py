"""The rule engine: load rule files, and match payloads. Runs in the workers and in the commands."""
