"""Settings: the model that defines each of them, where values come from, and the documents made from it."""
