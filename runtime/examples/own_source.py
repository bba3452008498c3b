"""An input and a stage of your own: frames that NumPy draws, translated, with the source inset in a corner.

python runtime/examples/own_source.py night.mp4
"""

import sys
import time
from fractions import Fraction

import numpy as np

import i2i_runtime as i2i


class Gradient(i2i.Source):
    """A gradient that moves to the right, 320x192 pixels, 25 frames per second."""

    def __init__(self, frame_count: int) -> None:
        self.name, self.frame_count = "gradient", frame_count
        self._index = 0

    def read(self) -> i2i.Frame | None:
        if self.frame_count is None or self._index == self.frame_count:
            return None
        ramp = (np.arange(320) + 4 * self._index) % 256
        pixels = np.broadcast_to(ramp[None, :, None], (192, 320, 3)).astype(np.uint8)
        frame = i2i.Frame(pixels, self._index, self._index, Fraction(1, 25), time.monotonic())
        self._index += 1
        return frame


class Inset(i2i.Stage):
    """Draws the source at a quarter of its size into the upper left corner."""

    def process(self, translated: i2i.Frame, source: i2i.Frame) -> i2i.Frame:
        small = source.pixels[::4, ::4]
        translated.pixels[: small.shape[0], : small.shape[1]] = small
        return translated


def main(output: str, name: str = "day2night") -> None:
    engine = i2i.open_engine(name)
    sink = i2i.open_sink(output, i2i.SinkOptions(rate=25, restart=True))
    i2i.Pipeline(Gradient(frame_count=50), engine, [sink], stages=[Inset()]).run()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
