"""The methods by the name they have on the command line."""

from __future__ import annotations

from typing import NamedTuple

from i2i_trainer.config import TrainConfig
from i2i_trainer.method import Method
from i2i_trainer.methods.cyclegan import CycleGAN, CycleGANConfig
from i2i_trainer.methods.realtime import Realtime, RealtimeConfig


class Entry(NamedTuple):
    """One method: the class of its options, and the class that takes an instance of them."""

    config: type[TrainConfig]
    method: type[Method]


METHODS: dict[str, Entry] = {
    "cyclegan": Entry(CycleGANConfig, CycleGAN),
    "realtime": Entry(RealtimeConfig, Realtime),
}
