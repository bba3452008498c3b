"""What the trainer and export say of weights that never learned, and what a training says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from i2i_trainer.checkpoint import CHECKPOINT, read_state, write_checkpoint
from i2i_trainer.health import remarks_on_losses, remarks_on_output, remarks_on_run
from i2i_trainer.loop import train
from i2i_trainer.method import Inference
from i2i_trainer.methods import METHODS
from i2i_trainer.methods.cyclegan import CycleGANConfig
from i2i_trainer.scenes import write_scenes


class Constant(Inference):
    """Gives one value everywhere, plus a part of its style."""

    def __init__(self, value: float, style_share: float | None = None) -> None:
        super().__init__()
        self.value = value
        self.share = style_share or 0.0
        self.style_size = 0 if style_share is None else 2
        self.default_style = (0.0,) * self.style_size

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        shift = 0.0 if style is None else self.share * style.mean(1)[:, None, None, None]
        return torch.full_like(image, self.value) + shift


def test_outputs_that_say_nothing() -> None:
    image = torch.zeros(1, 3, 8, 8)
    assert remarks_on_output(Constant(0.3), image) == []
    assert "pure black and white" in remarks_on_output(Constant(-1.0), image)[0]
    assert "Styles do not differ" in remarks_on_output(Constant(0.3, 1e-4), image)[0]
    assert remarks_on_output(Constant(0.3, 0.5), image) == []


def test_a_loss_that_ran_away() -> None:
    rows = [{"losses": {"gen": 0.5, "kl": 1e-4}}, {"losses": {"gen": 400.0, "kl": 0.9}}]
    assert remarks_on_losses(rows) == []
    rows.append({"losses": {"gen": 2.8e11, "kl": 0.9}})
    assert remarks_on_losses(rows) == [
        "The training has diverged: gen is 2.8e+11 and was 0.5 at first. Start again with a lower --lr."
    ]
    assert remarks_on_losses([]) == []


def test_a_diverged_training_says_so_at_its_end_and_at_export(
    tiny: CycleGANConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("cyclegan", replace(tiny, steps=2, log_every=1))
    log = run / "log.jsonl"
    first = json.loads(log.read_text().splitlines()[0])
    tame = {**first, "losses": {name: 1e-9 * value for name, value in first["losses"].items()}}
    train("cyclegan", replace(tiny, steps=3, log_every=1, lr=1e4), resume=True)
    capsys.readouterr()
    log.write_text(json.dumps(tame) + "\n" + json.dumps({**first, "step": 3, "losses": {"gen": 1e9}}) + "\n")
    assert "The training has diverged: gen is 1e+09" in remarks_on_run(run)[0]
    train("cyclegan", replace(tiny, steps=4, log_every=1, lr=1e6), resume=True)
    assert "The training has diverged" in capsys.readouterr().out


def test_a_stage_without_translation_is_told(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = METHODS["tunit"].config
    options = dict(kind.presets["small"]) | {
        "batch": 2,
        "steps": 2,
        "workers": 0,
        "device": "cpu",
        "log_every": 1,
    }
    run = train("tunit", kind(**options | {"data": streets, "out": tmp_path / "run"}))
    printed = capsys.readouterr().out
    assert "stage guide 1/2000" in printed
    sentence = "The generator has not learned yet: steps 1 to 2000 are the stage `guide`, which trains no translation"
    assert f"{sentence}, and this is step 2." in printed
    assert remarks_on_run(run)[0].startswith(sentence)


def test_averages_of_older_programs_are_near_their_start(tiny: CycleGANConfig) -> None:
    run = train("cyclegan", replace(tiny, ema=0.999))
    assert not [remark for remark in remarks_on_run(run) if "averaged" in remark]
    from safetensors.torch import load_file

    state = read_state(run)
    del state["ema_warmup"]
    write_checkpoint(run, "cyclegan", load_file(run / CHECKPOINT), state)
    assert "The averaged weights of step 4 are 100% those of the start." in remarks_on_run(run)


def test_the_head_names_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write_scenes(data, count=3, size=(40, 56), held_out=1)
    Image.new("RGB", (12, 10)).save(data / "trainB" / "tiny.png")
    options = dict(METHODS["cyclegan"].config.presets["small"]) | {"width": 4, "blocks": 1, "disc_width": 4}
    config = METHODS["cyclegan"].config(
        **options
        | {"data": data, "out": tmp_path / "run", "domains": ("day", "night"), "swap": True, "batch": 2}
        | {"steps": 9, "log_every": 4, "device": "cpu", "workers": 0}
    )
    train("cyclegan", config)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images    unpaired: 4 images of day (12x10 to 56x40), 3 images of night (56x40)"
    assert (
        lines[1] == "learns    day -> night and night -> day (an engine does the first unless told otherwise)"
    )
    assert lines[2].startswith(
        "networks  cyclegan, 0.0 M weights, on 64x64 crops of images with a short side of 72"
    )
    assert lines[3] == "runs on   cpu, 1 thread, 32 bit"
    assert lines[4] == "The smallest image of day has a side of 10 and is enlarged to 72."
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["4/9", "8/9", "9/9"]
    assert all(" left  gen " in line for line in steps)
    assert any(
        line.startswith("takes     about ") and "for 2 more steps of 4 images" in line for line in lines
    )
