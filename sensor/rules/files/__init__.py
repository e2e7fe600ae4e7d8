"""Rule files: loading them, every fault in them, their JSON Schema, and rules as text."""
