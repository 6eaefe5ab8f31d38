"""The only layer that knows a framework. From here on upwards: plain numbers and names."""
