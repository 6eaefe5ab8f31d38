"""Tiny models of every usual family, at their own initialisation."""
