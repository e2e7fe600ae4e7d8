"""Other programs beside sensor, with the same frames and the same strings to search for."""
