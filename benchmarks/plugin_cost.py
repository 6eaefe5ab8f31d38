"""What the installed but unused plugin costs a run: `pytest --co` on a trivial file, interleaved with and without it.

    python benchmarks/plugin_cost.py [PAIRS]

Prints the median of the differences of PAIRS (20) interleaved pairs. Each run is a process of its own, and other plugins are kept
out, so that their noise is not measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(folder: Path, *arguments: str) -> float:
    """Wall time of one `pytest --co`."""
    command = [sys.executable, "-m", "pytest", "-q", "--co", "-p", "no:cacheprovider", *arguments]
    start = time.perf_counter()
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environ)
    return time.perf_counter() - start


def main(pairs: int) -> None:
    """Print the medians and their difference, in milliseconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_trivial.py").write_text("def test_trivial():\n    pass\n")
        seconds(folder), seconds(folder, "-p", "gradguard.pytest_plugin")  # compiled files and disk caches
        without, with_plugin = [], []
        for pair in range(pairs):
            # Alternate which goes first: a machine that warms up or slows down favours neither.
            for plugin in (False, True) if pair % 2 else (True, False):
                (with_plugin if plugin else without).append(seconds(folder, *(["-p", "gradguard.pytest_plugin"] if plugin else [])))
    differences = [1000 * (b - a) for a, b in zip(without, with_plugin, strict=True)]
    print(f"without {1000 * statistics.median(without):.0f} ms, with {1000 * statistics.median(with_plugin):.0f} ms, "
          f"median difference of {pairs} pairs {statistics.median(differences):+.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
