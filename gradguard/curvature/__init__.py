"""Extreme eigenvalues by Lanczos, and the rates up to which an optimizer is stable on a quadratic; NumPy only."""
