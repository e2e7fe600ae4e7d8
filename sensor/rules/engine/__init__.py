"""Payloads to matches: deciding which rules match, and where."""
