"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waiting times between attempts: doubled from `first_s` to `limit_s`, each cut at random by up to
    `jitter`.

    The jitter keeps many viewers of one camera from coming back in the same instant.
    """

    first_s: float = 0.5
    limit_s: float = 15.0
    jitter: float = 0.5

    def delays(self, rng: random.Random) -> Iterator[float]:
        delay = self.first_s
        while True:
            yield delay * (1.0 - self.jitter * rng.random())
            delay = min(self.limit_s, 2.0 * delay)
