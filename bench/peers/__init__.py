"""Other programs beside sensor, on the same frames, with the same strings to look for."""
