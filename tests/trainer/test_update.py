"""The moves of the weights under mixed precision, and the average of the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

from i2i_trainer.checkpoint import CHECKPOINT, under
from i2i_trainer.config import TrainConfig, batch_share
from i2i_trainer.errors import OptionError
from i2i_trainer.loop import train
from i2i_trainer.method import Batch
from i2i_trainer.methods import METHODS
from i2i_trainer.methods.bicyclegan import BicycleGANConfig
from i2i_trainer.methods.cyclegan import CycleGAN, CycleGANConfig
from i2i_trainer.methods.tunit import TUNITConfig
from i2i_trainer.optimise import Average, Optimisation

TINY = {"width": 4, "disc_width": 4, "encoder_width": 4, "dropout": False, "lr": 0.05}


def small(name: str, **options: object) -> TrainConfig:
    kind = METHODS[name].config
    return kind(**{**kind.presets.get("small", {}), **options})


def test_the_second_update_of_a_step_sees_the_weights_that_the_first_moved() -> None:
    entry = METHODS["bicyclegan"]
    torch.manual_seed(0)
    method = entry.method(small("bicyclegan", batch=2, **TINY))
    made: list[Tensor] = []
    generator = method.get_submodule("generator")
    generator.register_forward_hook(lambda *call: made.append(call[2].detach().float()))
    update = Optimisation(Fabric(accelerator="cpu", devices=1), method.optimisers())
    batch = Batch(torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method.step(batch, update)
    _, before, after = made  # the encoded branch; then the drawn code before and after the first move
    assert (before - after).abs().max() > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_every_method_averages_what_its_inference_uses(name: str) -> None:
    if name == "distill":
        pytest.skip("a student needs a teacher's run")
    method = METHODS[name].method(small(name))
    with torch.no_grad():
        for network in method.ema_modules().values():
            for parameter in network.parameters():
                parameter.fill_(0.25)
    for direction in method.directions():
        inference = method.inference(direction)
        own = dict(inference.named_parameters())
        assert own
        if name == "nicegan":  # the folded encoder is worked out of the averaged weights
            own = {key: value for key, value in own.items() if not key.startswith("encoder")}
        assert [key for key, value in own.items() if not bool((value == 0.25).all())] == []


def test_nicegan_averages_the_encoders_that_its_generators_read() -> None:
    method = METHODS["nicegan"].method(small("nicegan"))
    averaged = {id(p) for network in method.ema_modules().values() for p in network.parameters()}
    for discriminator in method.discriminators():  # type: ignore[operator]
        assert {id(p) for p in discriminator.encoder.parameters()} <= averaged
        assert not {id(p) for p in discriminator.local.parameters()} & averaged


def test_an_average_of_nothing_is_refused(tiny: CycleGANConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CycleGAN, "ema_modules", lambda method: {})
    with pytest.raises(OptionError, match=r"--ema 0\.9 does nothing for cyclegan"):
        train("cyclegan", replace(tiny, ema=0.9))


def test_an_average_that_starts_on_resume_starts_from_the_trained_weights(
    tiny: CycleGANConfig, tmp_path: Path
) -> None:
    train("cyclegan", replace(tiny, steps=2))
    learned = under(load_file(tiny.out / CHECKPOINT), "model/a2b.")
    train("cyclegan", replace(tiny, steps=3, ema=0.999), resume=True)
    whole = load_file(tiny.out / CHECKPOINT)
    now, average = under(whole, "model/a2b."), under(whole, "average/a2b/")
    assert average.keys() == now.keys()
    for key, value in average.items():
        torch.testing.assert_close(value, learned[key].lerp(now[key], 1 - 3 / 12), rtol=0, atol=1e-6)


def test_the_average_soon_leaves_the_first_weights_and_ends_at_its_decay() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = Average({"net": module}, 0.999)
    torch.nn.init.ones_(module.weight)
    for step in range(100):
        average.update(step)
    assert (
        float(average.weights["net"]["weight"]) > 0.999
    )  # it would be 0.1 with the decay from the first step
    average.start()
    torch.nn.init.zeros_(module.weight)
    average.update(100_000)
    assert float(average.weights["net"]["weight"]) == pytest.approx(0.999)


def test_what_a_method_asks_of_a_batch_every_process_must_have() -> None:
    assert batch_share(BicycleGANConfig(batch=4), 2) == 2
    assert batch_share(CycleGANConfig(batch=2), 2) == 1
    for config, reason in ((BicycleGANConfig(batch=2), "even number"), (TUNITConfig(batch=2), "at least 2")):
        with pytest.raises(OptionError, match=f"--batch 2 leaves 1 for each of 2 processes.*{reason}"):
            batch_share(config, 2)
    with pytest.raises(OptionError, match="use a multiple of 2"):
        batch_share(CycleGANConfig(batch=3), 2)
