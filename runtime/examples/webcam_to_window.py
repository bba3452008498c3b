"""Translates a webcam live into a window; q or Escape closes it.

python runtime/examples/webcam_to_window.py            # camera 0
python runtime/examples/webcam_to_window.py replay:drive.mp4
"""

import sys

import i2i_runtime as i2i


def main(input: str = "0", output: str = "display://0", engine: str = "day2night") -> None:
    outcome = i2i.translate(input, output, engine=engine, progress=True)
    print(outcome.sentence)


if __name__ == "__main__":
    main(*sys.argv[1:])
