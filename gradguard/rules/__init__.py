"""Rules: pure functions from measurements to findings. One file per rule; the table is ``registry.py``."""
