"""What the installed but unused plugin costs a run: `pytest --co` on a trivial file, interleaved with and without it.

    python benchmarks/plugin_cost.py [PAIRS]

Prints the medians of PAIRS (20) interleaved pairs, and of their differences: wall time, and processor time, which says more on a
machine that is busy. Each run is a process of its own, and other plugins are kept out, so that their noise is not measured.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def cost(folder: Path, *arguments: str) -> tuple[float, float]:
    """Wall and processor time of one `pytest --co`, in milliseconds."""
    command = [sys.executable, "-m", "pytest", "-q", "--co", "-p", "no:cacheprovider", *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environ)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * wall, 1000 * used


def main(pairs: int) -> None:
    """Print the medians and their differences."""
    plugin = ("-p", "gradguard.pytest_plugin")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_trivial.py").write_text("def test_trivial():\n    pass\n")
        cost(folder), cost(folder, *plugin)  # compiled files and disk caches
        bare, loaded = [], []
        for pair in range(pairs):
            # Alternate which goes first: a machine that warms up or slows down favours neither.
            for with_plugin in (False, True) if pair % 2 else (True, False):
                (loaded if with_plugin else bare).append(cost(folder, *(plugin if with_plugin else ())))
    for kind, what in enumerate(("wall", "processor")):
        without, with_it = ([run[kind] for run in runs] for runs in (bare, loaded))
        difference = statistics.median(b - a for a, b in zip(without, with_it, strict=True))
        print(
            f"{what:<9} without {statistics.median(without):.0f} ms, with {statistics.median(with_it):.0f} ms, "
            f"median difference of {pairs} pairs {difference:+.1f} ms"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
