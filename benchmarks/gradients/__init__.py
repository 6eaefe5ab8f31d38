"""Benchmarks of the gradient rules: recall, cost, and the published bugs beside the peers."""
