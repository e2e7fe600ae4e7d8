"""The rule engine: rule files to rules, payloads to matches; runs in workers and in the commands."""
