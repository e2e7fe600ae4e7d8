"""Measurements that users can repeat on their own machines. Runs in ``sensor bench``."""
