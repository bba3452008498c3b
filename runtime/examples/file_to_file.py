"""Translates a video file with its sound and time stamps, and prints what the report says.

python runtime/examples/file_to_file.py drive.mp4 night.mp4
"""

import sys

import i2i_runtime as i2i


def main(input: str, output: str, engine: str = "day2night") -> int:
    options = i2i.SinkOptions(crf=18, restart=True)
    try:
        outcome = i2i.translate(input, output, engine=engine, sink=options, progress=True)
    except i2i.I2IError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    frames, latency = outcome.report["frames"], outcome.report["latency"]["infer"]
    print(f"{frames['out']} of {frames['in']} frames, {latency['p50_ms']:.1f} ms each in the engine")
    for loss in outcome.report["losses"]:
        print(f"lost: {loss}")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
