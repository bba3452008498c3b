"""An output of your own: writes the mean brightness of every translated frame into a CSV file.

python runtime/examples/own_sink.py drive.mp4 brightness.csv
"""

import sys
from pathlib import Path

import i2i_runtime as i2i


class BrightnessTable(i2i.Sink):
    """`write` gets each translated frame with its source; `finish` is called only if the job succeeds."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._path = Path(path)
        self._rows = ["time_s,source,translated"]

    def write(self, translated: i2i.Frame, source: i2i.Frame) -> None:
        before, after = source.pixels.mean(), translated.pixels.mean()
        self._rows.append(f"{float(source.time_s):.3f},{before:.2f},{after:.2f}")

    def finish(self) -> None:
        self._path.write_text("\n".join(self._rows) + "\n")


def main(input: str, output: str, name: str = "day2night") -> None:
    engine = i2i.open_engine(name)
    pipeline = i2i.Pipeline(i2i.open_source(input), engine, [BrightnessTable(output)])
    pipeline.run()
    engine.close()
    print(f"{pipeline.stats.frames_out} frames at {pipeline.stats.fps:.1f} frames per second")


if __name__ == "__main__":
    main(*sys.argv[1:])
