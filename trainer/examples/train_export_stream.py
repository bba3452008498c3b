"""From two folders of photographs to a translated clip, in three steps:

python trainer/examples/train_export_stream.py photos clip.mp4 translated.mp4 --steps 4000

`photos` holds two folders of images, such as `photos/day` and `photos/night`; the training is the long part. Run it
once more with the same folders and it continues where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import i2i_trainer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with a folder of images per domain")
    parser.add_argument("clip", type=Path, help="video to translate")
    parser.add_argument("output", type=Path, help="video to write")
    parser.add_argument("--run", type=Path, default=Path("runs/example"), help="run folder")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--size", default="640x384", help="size of the translated frames")
    given = parser.parse_args()

    # 1. Train a translator that is fast enough for live video, or continue a training that was stopped.
    begun = (given.run / "checkpoint.safetensors").exists()
    preset = None if begun else "small"
    run = i2i_trainer.train(
        "realtime", data=given.data, out=given.run, preset=preset, resume=begun, steps=given.steps
    )

    # 2. The network by itself, in PyTorch: images [N, 3, H, W] float32 RGB in [-1, 1] to the same.
    network = i2i_trainer.load_method(run).inference("a2b")
    print(f"{sum(weight.numel() for weight in network.parameters()):,} weights")

    # 3. Export an engine file, and translate the clip with it.
    engine = run / "engine.onnx"
    subprocess.run(["i2i-export", run, "--output", engine], check=True)
    stream = ["i2i-stream", "--engine", engine, "--input", given.clip, "--output", given.output]
    subprocess.run([*stream, "--size", given.size], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
