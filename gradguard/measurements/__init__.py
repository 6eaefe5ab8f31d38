"""What was observed, with its uncertainty: plain numbers and names, no tensors and no models."""
