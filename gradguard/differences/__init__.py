"""Numerical differentiation of t -> phi(t), with an error bar. NumPy only; it knows nothing of models."""
