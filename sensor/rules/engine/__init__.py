"""The matching engine: decide which rules match a payload, and where."""
