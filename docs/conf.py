"""Sphinx: `make docs`."""

project = "gradguard"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["ci"]
myst_heading_anchors = 3
