"""Importing this loads torch and all of gradguard: pytester forgets what an inner run imported, and torch cannot be imported twice."""

from __future__ import annotations

import importlib
import pkgutil

# Each of these holds compiled modules that refuse to be loaded a second time.
import numpy.fft  # noqa: F401
import pandas  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo  # noqa: F401  # optimizers import it

import gradguard

for module in pkgutil.walk_packages(gradguard.__path__, "gradguard."):
    # For the same reason: an inner run must not see other classes than the outer one.
    importlib.import_module(module.name)
