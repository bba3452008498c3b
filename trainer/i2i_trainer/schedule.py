"""Learning rates as a function of the step."""

from __future__ import annotations

from i2i_trainer.config import TrainConfig


def lr_factor(config: TrainConfig, step: int) -> float:
    """What the learning rates are multiplied by in step `step`, counted from 0; between 0 and 1."""
    if config.schedule == "linear":
        length = max(1, config.steps - config.decay_from)
        return max(0.0, 1.0 - max(0, step - config.decay_from) / length)
    if config.schedule == "milestones":
        return float(0.5 ** sum(step >= milestone for milestone in config.milestones))
    if config.schedule == "halve":
        return float(0.5 ** (step // config.decay_every))
    return 1.0
