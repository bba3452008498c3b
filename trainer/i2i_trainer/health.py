"""What speaks against using a run's weights: told while training and again at export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2i_trainer.checkpoint import checkpoint_file, load_method, read_config, read_state
from i2i_trainer.method import Inference, Method

GROWN = 1000.0
"""A loss this many times its first value, and that of 1, has run away."""
SATURATED = 0.98
"""Share of pure black and white from which an output says nothing."""
LEVEL = 2 / 255
"""One grey level of an image in [-1, 1]."""


def remarks_on_run(run: Path, direction: str = "a2b", step: str | None = None) -> list[str]:
    """Sentences on the weights of a run, empty if nothing speaks against them; `step` as in `load_method`."""
    _, config = read_config(run)
    state = read_state(run, checkpoint_file(run, step))
    method = load_method(run, step)
    rows = _rows(run, state["step"])
    remarks = [*remarks_on_stage(method, state["step"]), *remarks_on_losses(rows)]
    start = config.ema ** state["step"]
    if config.ema and not state.get("ema_warmup") and start > 0.1:
        remarks.append(f"The averaged weights of step {state['step']} are {start:.0%} those of the start.")
    inference = method.inference(direction)
    return remarks + remarks_on_output(inference, _test_image(inference))


def remarks_on_stage(method: Method, done: int) -> list[str]:
    """Whether the generator has not learned yet after `done` steps."""
    stage = method.stage(max(0, done - 1))
    if stage is None or stage.translates:
        return []
    return [
        f"The generator has not learned yet: steps 1 to {stage.end} are the stage `{stage.name}`, which trains no "
        f"translation, and this is step {done}."
    ]


def remarks_on_losses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether a loss is a thousand times its first value."""
    first: dict[str, float] = {}
    for row in rows:
        for name, value in row["losses"].items():
            first.setdefault(name, abs(value))
    last = rows[-1]["losses"] if rows else {}
    grown = [name for name, value in last.items() if abs(value) > GROWN * max(1.0, first[name])]
    if not grown:
        return []
    name = grown[0]
    return [
        f"The training has diverged: {name} is {last[name]:.3g} and was {first[name]:.3g} at first. Start again with a "
        "lower --lr."
    ]


@torch.no_grad()
def remarks_on_output(inference: Inference, images: Tensor) -> list[str]:
    """Whether the translations of images `[N, 3, H, W]` are saturated, or the same in every style."""
    inference = inference.eval().to(images.device)
    translated = inference(images).float()
    if bool((translated.abs() > 1 - LEVEL).float().mean() > SATURATED):
        return ["The translations are pure black and white: the training has diverged. Use a lower --lr."]
    if not (inference.style_size and inference.random_styles):
        return []
    generator = torch.Generator().manual_seed(0)
    styles = torch.randn(2, inference.style_size, generator=generator).to(images.device)
    one, other = (inference(images, style.expand(len(images), -1)).float() for style in styles)
    if bool((one - other).abs().mean() < LEVEL / 2):
        return ["Styles do not differ: two random ones change the image by less than half a grey level."]
    return []


def _test_image(inference: Inference) -> Tensor:
    """Soft blotches of all colours at a size that the network takes."""
    unit = inference.stride
    side = inference.fixed_size or (max(64, unit), max(64, unit))
    blotches = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    size = (side[0] - side[0] % unit, side[1] - side[1] % unit)
    return F.interpolate(blotches, size=size, mode="bilinear", align_corners=False)


def _rows(run: Path, upto: int) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in rows if row["step"] <= upto]
