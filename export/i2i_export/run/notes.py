"""What the user should know of exported weights: their step, their scale, and what speaks against them."""

from __future__ import annotations

from pathlib import Path

from i2i_export.run.guided import FACTORS
from i2i_runtime.metadata import SizePolicy
from i2i_trainer.checkpoint import checkpoint_file, read_config, read_state
from i2i_trainer.health import remarks_on_run

LIVE_HEIGHT = 720
"""Height of the frames that a guided engine is proposed for."""


def notes_on_run(
    run: Path, direction: str, step: str | None, size: SizePolicy, guided: int | None
) -> list[str]:
    """Sentences to print after the export of a run."""
    _, config = read_config(run)
    state = read_state(run, checkpoint_file(run, step))
    weights = f"averaged weights (--ema {config.ema})" if config.ema else "weights as they are"
    measured = f", {state['measure']} {state['value']:.4g}" if "measure" in state else ""
    notes = [f"Exported: step {state['step']} of {config.steps}{measured}, {weights}."]
    if guided is None and not size.is_fixed and config.load_size < LIVE_HEIGHT:
        notes.append(note_on_scale(config.load_size, size.stride))
    return notes + remarks_on_run(run, direction, step)


def note_on_scale(short_side: int, stride: int) -> str:
    """At which scale the network learned, and how to stay near it."""
    height = max(stride, round(short_side / stride) * stride)
    width = max(stride, round(short_side * 16 / 9 / stride) * stride)
    note = f"Learned at a short side of {short_side} pixels: much larger frames do not look like the samples."
    fitting = [factor for factor in FACTORS if factor * short_side <= LIVE_HEIGHT]
    guided = f", or export with --guided {fitting[-1]} for larger frames" if fitting else ""
    return f"{note} Stream with --size {width}x{height}{guided}."
