"""The checkpoints beside the last one: the newest few (`--keep`), and the best by a measure (`--eval-every`).

They hold weights alone, to export and to measure; a training is resumed from the last checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from i2i_trainer.checkpoint import BEST, HISTORY, Tensors, read_state, write_checkpoint


class History:
    """The kept checkpoints of a run."""

    def __init__(self, run: Path, method: str, keep: int, measure: str) -> None:
        self._run = run
        self._method = method
        self._keep = keep
        self.measure = measure
        self.best: float | None = None
        """The best value so far of the measure; lower is better."""
        if (run / BEST).exists():
            state = read_state(run, BEST)
            self.best = state["value"] if state["measure"] == measure else None

    def add(self, done: int, weights: Tensors) -> None:
        """Keeps the weights of step `done`, and removes the oldest past `keep`."""
        if not self._keep:
            return
        file = f"{HISTORY}/{done:08d}.safetensors"
        write_checkpoint(self._run, self._method, weights, {"step": done, "ema_warmup": True}, file)
        kept = sorted((self._run / HISTORY).glob("*.safetensors"))
        for path in kept[: -self._keep]:
            path.unlink()

    def offer(self, done: int, value: float, weights: Tensors) -> bool:
        """Keeps the weights as the best if the value is lower than all before; whether it was."""
        if self.best is not None and value >= self.best:
            return False
        self.best = value
        state = {"step": done, "measure": self.measure, "value": value, "ema_warmup": True}
        write_checkpoint(self._run, self._method, weights, state, BEST)
        return True
