"""Bar charts as PNG, drawn with OpenCV: the runtime has no plotting library to install."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.files import refusal_of_target, write_whole

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (40, 40, 40)
_BAR = (176, 114, 38)  # BGR
_ROW, _LABEL, _WIDTH = 34, 260, 900


def draw_bars(groups: Mapping[str, Mapping[str, float]], unit: str, path: Path) -> None:
    """Writes one horizontal bar per value, under the heading of its group, all groups on their own scale.

    Nothing but a PNG is replaced. Raises UsageError and SinkError.
    """
    rows = sum(len(group) + 1 for group in groups.values())
    canvas = np.full((rows * _ROW + 20, _WIDTH, 3), 255, np.uint8)
    y = 10
    for heading, group in groups.items():
        cv2.putText(canvas, heading, (12, y + 24), _FONT, 0.62, _INK, 1, cv2.LINE_AA)
        y += _ROW
        largest = max([*group.values(), 1e-9])
        for name, value in group.items():
            length = round((_WIDTH - _LABEL - 150) * value / largest)
            cv2.putText(canvas, name, (28, y + 22), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
            cv2.rectangle(canvas, (_LABEL, y + 6), (_LABEL + max(1, length), y + _ROW - 8), _BAR, cv2.FILLED)
            text = f"{value:.1f} {unit}"
            cv2.putText(canvas, text, (_LABEL + length + 8, y + 22), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
            y += _ROW
    try:
        encoded = cv2.imencode(".png", canvas)[1]
        if (refusal := refusal_of_target(path, is_own=_is_png)) is not None:
            raise UsageError(f"The chart {path} {refusal}: choose another path for it.")
        write_whole(path, encoded.tobytes())
    except OSError as error:
        raise SinkError(
            f"{path} cannot be written ({error.strerror}): choose another place for it."
        ) from error


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) in (b"", b"\x89PNG\r\n\x1a\n")
