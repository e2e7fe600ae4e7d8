"""Measurements that users can repeat on their own machines: ``sensor bench``."""
