"""The methods by the name they have on the command line."""

from __future__ import annotations

from typing import NamedTuple

from i2i_trainer.config import TrainConfig
from i2i_trainer.method import Method
from i2i_trainer.methods.bicyclegan import BicycleGAN, BicycleGANConfig
from i2i_trainer.methods.cogan import CoGAN, CoGANConfig
from i2i_trainer.methods.cut import CUT, CUTConfig, FastCUT, FastCUTConfig
from i2i_trainer.methods.cyclegan import CycleGAN, CycleGANConfig
from i2i_trainer.methods.distill import Distill, DistillConfig
from i2i_trainer.methods.drit import DRIT, DRITConfig
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
}
