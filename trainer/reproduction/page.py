"""The page of the papers' ablations, made from the stored rows: what was found, what we find, what was not run.

cd trainer && python -m reproduction.page            # writes README.md beside this file
cd trainer && python -m reproduction.page --check    # exits with 1 if the page is not what the rows say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from reproduction.experiments import EXPERIMENTS, Experiment
from reproduction.rows import HERE, RESULTS

PAGE = HERE / "README.md"
HEAD = """# The papers' ablations, repeated

Made by `python -m reproduction.page` from the rows in `results`; a test compares the two. "not run" means just that.
A figure with a spread is the mean over seeds and its standard deviation; one without is a single seed, which orders
nothing.
Preset `cpu` is 64 pixels and small networks, far below the papers' sizes: compare within a table, never with a paper.
"""


def page(results: Path = RESULTS) -> str:
    """Markdown of every experiment, with the rows there are."""
    rows = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    parts = [_experiment(name, e, rows) for name, e in EXPERIMENTS.items()]
    return "\n".join([HEAD, *parts])


def _experiment(name: str, experiment: Experiment, rows: list[dict[str, Any]]) -> str:
    own = [row for row in rows if row["experiment"] == name]
    presets = sorted({row["preset"] for row in own}) or ["cpu"]
    lines = [
        f"## {experiment.method} on {experiment.data}",
        "",
        f"Published: {experiment.claim}",
        "",
        f"    cd trainer && python -m reproduction.ablations {name} --preset cpu --seed 0",
        "",
        f"| variant | published | preset | {' | '.join(experiment.measures)} | seeds |",
        "|---" * (len(experiment.measures) + 4) + "|",
    ]
    for preset in presets:
        for variant, what in experiment.variants.items():
            found = [row for row in own if row["variant"] == variant and row["preset"] == preset]
            cells = [_figure([row["metrics"][measure] for row in found]) for measure in experiment.measures]
            seeds = ", ".join(str(row["seed"]) for row in found)
            lines.append(
                f"| {variant} | {what.published} | {preset} | {' | '.join(cells)} | {seeds or 'none'} |"
            )
    return "\n".join([*lines, ""])


def _figure(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "not run" if not values else "not measured"
    spread = f" ± {stdev(known):.2g}" if len(known) > 1 else ""
    return f"{mean(known):.4g}{spread}"


def main() -> None:
    """Writes the page, or with `--check` compares it."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE.name} is not what the rows say: run python -m reproduction.page.")


if __name__ == "__main__":
    main()
