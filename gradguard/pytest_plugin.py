"""The pytest plugin. It imports the standard library and pytest only; the rest is loaded when a test uses it."""
