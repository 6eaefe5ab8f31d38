"""The architectures of ``planted``, unharmed: every error is a false alarm, every open block is counted.

    python -m benchmarks.localisation.unharmed

Train and eval mode, float32 and float64, and autocast to bfloat16; dropout as each model's configuration has it.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch

import gradguard as gg
from benchmarks.localisation.planted import Family, families


def check(family: Family, mode: str, dtype: str, seed: int) -> gg.Report:
    """One check; ``dtype`` is float32, float64 or autocast."""
    torch.manual_seed(seed)
    model = family.build().train(mode == "train")
    inputs = family.inputs()
    if dtype == "float64":
        model.double()
        inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    if dtype != "autocast":
        return gg.check_gradients(model, inputs, loss=family.loss, seed=seed)

    def call(**given: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(**given)

    return gg.check_gradients(call, inputs, seed=seed)


def main() -> None:
    """Print what was said of models that are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--family", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    checks = alarms = blocks = unclear = 0
    for family in families():
        if options.family and options.family != family.name:
            continue
        for mode in ("train", "eval"):
            for dtype in ("float32", "float64", "autocast"):
                for seed in range(options.seeds):
                    report = check(family, mode, dtype, seed)
                    verdicts = [row["verdict"] for row in report.table_rows("gradients")]
                    checks, blocks = checks + 1, blocks + len(verdicts)
                    unclear += verdicts.count("inconclusive")
                    alarms += not report.ok
                    if not report.ok or "inconclusive" in verdicts:
                        said = "; ".join(f"{f.code} {f.block}: {f.message}" for f in report.errors[:3])
                        print(f"{family.name:10} {mode} {dtype} {seed}: {verdicts.count('inconclusive')} open; {said}", flush=True)
    print(f"{checks} checks of models that are right: {alarms} with an error; {unclear} of {blocks} blocks inconclusive")


if __name__ == "__main__":
    main()
