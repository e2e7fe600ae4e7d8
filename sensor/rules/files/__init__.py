"""Rule files: load and check them, describe their format as a JSON Schema, and show rules as text."""
