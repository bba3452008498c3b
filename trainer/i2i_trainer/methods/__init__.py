"""The methods by the name they have on the command line."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.method import Method
from i2i_trainer.methods.bicyclegan import BicycleGAN, BicycleGANConfig
from i2i_trainer.methods.cogan import CoGAN, CoGANConfig
from i2i_trainer.methods.cut import CUT, CUTConfig, FastCUT, FastCUTConfig
from i2i_trainer.methods.cyclegan import CycleGAN, CycleGANConfig
from i2i_trainer.methods.distill import Distill, DistillConfig
from i2i_trainer.methods.drit import DRIT, DRITConfig
from i2i_trainer.methods.graded import Graded, GradedConfig
from i2i_trainer.methods.lptn import LPTN, LPTNConfig
from i2i_trainer.methods.munit import MUNIT, MUNITConfig
from i2i_trainer.methods.nicegan import NICEGAN, NICEGANConfig
from i2i_trainer.methods.pix2pix import Pix2Pix, Pix2PixConfig
from i2i_trainer.methods.realtime import Realtime, RealtimeConfig
from i2i_trainer.methods.tunit import TUNIT, TUNITConfig
from i2i_trainer.methods.ugatit import UGATIT, UGATITConfig
from i2i_trainer.methods.unit import UNIT, UNITConfig
from i2i_trainer.methods.unit_digits import UNITDigits, UNITDigitsConfig


class Entry(NamedTuple):
    """One method: the class of its options, and the class that takes an instance of them."""

    config: type[TrainConfig]
    method: type[Method]


METHODS: dict[str, Entry] = {
    "unit": Entry(UNITConfig, UNIT),
    "unit-digits": Entry(UNITDigitsConfig, UNITDigits),
    "munit": Entry(MUNITConfig, MUNIT),
    "nicegan": Entry(NICEGANConfig, NICEGAN),
    "ugatit": Entry(UGATITConfig, UGATIT),
    "bicyclegan": Entry(BicycleGANConfig, BicycleGAN),
    "pix2pix": Entry(Pix2PixConfig, Pix2Pix),
    "tunit": Entry(TUNITConfig, TUNIT),
    "lptn": Entry(LPTNConfig, LPTN),
    "drit": Entry(DRITConfig, DRIT),
    "cogan": Entry(CoGANConfig, CoGAN),
    "cut": Entry(CUTConfig, CUT),
    "fastcut": Entry(FastCUTConfig, FastCUT),
    "cyclegan": Entry(CycleGANConfig, CycleGAN),
    "realtime": Entry(RealtimeConfig, Realtime),
    "distill": Entry(DistillConfig, Distill),
    "graded": Entry(GradedConfig, Graded),
}


def entry_of(name: str) -> Entry:
    """The method of a name. Raises OptionError naming the others."""
    if name not in METHODS:
        raise OptionError(f"There is no method {name!r}: choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def preset_of(name: str, preset: str | None) -> TrainConfig:
    """The options of a method's preset, its defaults without one. Raises OptionError naming the presets there are."""
    kind = entry_of(name).config
    if preset is None:
        return kind()
    if preset not in kind.presets:
        known = ", ".join(kind.presets) or "none"
        raise OptionError(f"--preset {preset} is unknown to {name}: it has {known}.")
    return replace(kind(), **kind.presets[preset])


def changed_options(name: str, config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """The options with other values, as Python or JSON spells them: a path may be text and a tuple a list.

    Raises OptionError on an option that the method does not have or a value that it refuses.
    """
    hints = get_type_hints(type(config))
    known = {field.name for field in fields(config)}
    if unknown := sorted(set(values) - known):
        raise OptionError(f"{name} has no option {unknown[0]!r}: see i2i-train {name} --help.")
    return replace(config, **{option: _typed(value, hints[option]) for option, value in values.items()})


def _typed(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in (hint, *get_args(hint)) else value
