"""Calls an engine on single images, without a pipeline.

python runtime/examples/engine_from_python.py day.jpg night.png
"""

import sys

import cv2
import numpy as np

import i2i_runtime as i2i


def main(input: str, output: str, name: str = "day2night") -> None:
    engine = i2i.open_engine(name)
    print(f"{engine.metadata.name} ({engine.metadata.direction}) runs on {engine.backend}: {engine.reason}")
    bgr = cv2.imread(input)
    if bgr is None:
        sys.exit(f"{input} is not an image that OpenCV can read")
    rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    translated = engine.infer(rgb)  # [H, W, 3] uint8 RGB, the size of the input
    cv2.imwrite(output, cv2.cvtColor(translated, cv2.COLOR_RGB2BGR))
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
