"""Settings: one model of every setting, where their values come from, and the template of a settings file."""
