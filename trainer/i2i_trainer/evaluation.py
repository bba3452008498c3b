"""`i2i-eval runs/NAME --data DIR`: measures a trained method and writes `metrics.json` and a contact sheet."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from i2i_trainer.checkpoint import checkpoint_file, load_method, read_config, write_atomically
from i2i_trainer.errors import OptionError, TrainError
from i2i_trainer.galleries import write_galleries
from i2i_trainer.images import Pixels
from i2i_trainer.material import Material, Options, find_material, styles_for, translations
from i2i_trainer.method import Inference
from i2i_trainer.scores import (
    OF_SHUFFLED,
    OF_SOURCE,
    best_of,
    class_accuracies,
    class_distances,
    distances,
    diversity,
    errors_to_truth,
    feature_network,
    flicker,
    latent_distance,
)
from i2i_trainer.sheets import bytes_from_tensor, sheet_from_columns, write_png

__all__ = ["Options", "evaluate", "main"]

SHEET_ROWS = 8
HIGHER_IS_BETTER = ("accuracy", "psnr", "ssim", "diversity")


def main() -> None:
    """Entry point of `i2i-eval`; exits with 0 done, 1 failed, 2 usage, 130 interrupted."""
    try:
        options = tyro.cli(Options, prog="i2i-eval", description=Options.__doc__)
        evaluate(options)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(130)
    except TrainError as error:
        _complain(str(error))
        sys.exit(error.exit_code)


def _complain(sentence: str) -> None:
    console = Console(stderr=True)
    console.print(f"i2i-eval: {sentence}", style="red", highlight=False, markup=False, soft_wrap=True)


@torch.no_grad()
def evaluate(options: Options) -> dict[str, Any]:
    """Measures, prints, writes `metrics.json` and `metrics.png`, and returns what `metrics.json` holds."""
    name, config = read_config(options.run)
    method = load_method(options.run, options.step)
    if options.direction not in method.directions():
        raise OptionError(
            f"{name} has no direction {options.direction}: it has {', '.join(method.directions())}."
        )
    inference = method.inference(options.direction)
    material = find_material(options, config, method, inference)
    console = Console()
    console.print(
        f"{name}, {config.direction(options.direction)}: {len(material.a)} source and {len(material.b)} target images "
        f"of {material.split}",
        highlight=False,
        soft_wrap=True,
    )

    encoder = method.style_encoder(options.direction)
    styles = styles_for(options, inference, encoder, material)
    translated = translations(inference, material.a, styles, options.batch, console)
    features = feature_network(options, console)
    measured: dict[str, Any] = {}
    measured |= distances(features, material, translated)
    measured |= class_distances(features, inference, encoder, material, options)
    if material.paired:
        measured |= errors_to_truth(material, translated)
        measured |= best_of(options, inference, material)
    measured |= diversity(options, inference, material, console)
    measured |= class_accuracies(method, options, material)
    measured |= latent_distance(method, options, material)
    if options.clip is not None:
        measured |= flicker(options, inference, translated.shape[-1])

    checkpoint = options.run / checkpoint_file(options.run, options.step)
    record = {
        "method": name,
        "direction": options.direction,
        "domains": list(material.domains.names),
        "split": material.split,
        "pictures": {"source": len(material.a), "target": len(material.b), "side": material.a.shape[-1]},
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "features": features.name,
        "metrics": measured,
    }
    write_atomically(options.run / "metrics.json", (json.dumps(record, indent=2) + "\n").encode())
    write_png(options.run / "metrics.png", sheet_from_columns(_columns(inference, material, translated)))
    drawn = write_galleries(options, method, inference, material) if options.sheets else []
    _print(console, measured)
    names = ", ".join(["metrics.png", *drawn])
    console.print(f"Written: {options.run / 'metrics.json'}, {names}", highlight=False)
    return record


def _columns(inference: Inference, material: Material, translated: Tensor) -> dict[str, Pixels]:
    rows = torch.linspace(0, len(material.a) - 1, min(SHEET_ROWS, len(material.a))).long()
    sources = material.a[rows]
    columns = {"source": sources, "translated": translated[rows]}
    if material.paired:
        columns["truth"] = material.b[rows]
    if inference.style_size and inference.random_styles:
        generator = torch.Generator().manual_seed(1)
        for number in (1, 2, 3):
            style = torch.randn(1, inference.style_size, generator=generator)
            columns[f"style {number}"] = translations(
                inference, sources, style.expand(len(rows), -1), SHEET_ROWS
            )
    if not material.paired:
        columns["some target"] = material.b[torch.linspace(0, len(material.b) - 1, len(rows)).long()]
    return {title: bytes_from_tensor(images) for title, images in columns.items()}


def _print(console: Console, measured: dict[str, Any]) -> None:
    """One row per measure: of the translation, and to compare, of the source itself and of another image's truth."""
    table = Table("measure", "better", "translated", "source", "shuffled truth")
    for name in measured:
        if name.endswith((OF_SOURCE, OF_SHUFFLED)):
            continue
        values = [measured.get(name + suffix) for suffix in ("", OF_SOURCE, OF_SHUFFLED)]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value or "") for value in values]
        table.add_row(name, _better(name), *cells)
    console.print(table)


def _better(name: str) -> str:
    """`lower` or `higher`, empty for what is neither."""
    if name.endswith(("_std", "_frames")):
        return ""
    return "higher" if any(word in name for word in HIGHER_IS_BETTER) else "lower"


if __name__ == "__main__":
    main()
