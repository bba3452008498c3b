"""What the doctor says about one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing this machine can or cannot do. `fix` is the command that changes it, empty if there is none."""

    topic: str
    name: str
    works: bool
    detail: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The finding as `--json` prints it; `mend` is the former name of `fix`."""
        return {**asdict(self), "mend": self.fix}
