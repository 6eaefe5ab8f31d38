"""What a run was made with: the table ``runs``."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

__all__ = ["run_row"]


def run_row(*, seed: int, dtype: str = "") -> dict[str, Any]:
    """Versions, device, dtype, seed, threads, time and commit, as a row of the table ``runs``."""
    import gradguard

    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    return {
        "gradguard": gradguard.__version__, "python": platform.python_version(),
        "numpy": getattr(numpy, "__version__", None), "torch": str(getattr(torch, "__version__", "")) or None,
        "device": "cpu", "dtype": dtype, "seed": seed, "threads": torch.get_num_threads() if torch is not None else None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit(),
    }


_found: dict[str, str | None] = {}


def _commit() -> str | None:
    """The commit of the working folder, where it is a git checkout; asked once per process."""
    if "commit" not in _found:
        try:
            done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
            _found["commit"] = done.stdout.strip() if done.returncode == 0 else None
        except (OSError, subprocess.SubprocessError):
            _found["commit"] = None
    return _found["commit"]
