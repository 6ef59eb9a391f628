"""Draws models/loss.png from training logs: `python plot.py LOG...`, one log for each leg of the run."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

SERIES = {"loss": "next token", "draft": "draft (MTP)", "index": "indexer divergence"}


def points(paths: list[str]) -> list[dict]:
    """Loss records in order; a later leg replaces what an earlier one did past its first step."""
    kept: list[dict] = []
    for path in paths:
        leg = [r for r in map(json.loads, Path(path).read_text().splitlines()) if "loss" in r]
        kept = [r for r in kept if r["step"] < leg[0]["step"]] + leg
    return kept


def main() -> None:
    records = points(sys.argv[1:])
    figure, axes = plt.subplots(figsize=(7, 3.4), dpi=90)
    for key, label in SERIES.items():
        axes.plot([r["step"] for r in records], [r[key] for r in records], lw=0.8, label=label)
    axes.set(yscale="log", xlabel="step", ylabel="loss on a batch")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(Path(__file__).parents[1] / "models" / "loss.png")


if __name__ == "__main__":
    main()
