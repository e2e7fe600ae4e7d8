"""``sensor selftest``: follows one marked packet through the sensor, and says where it stops."""
