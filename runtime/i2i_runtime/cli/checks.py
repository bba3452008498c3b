"""Checks of the options of i2i-stream, before anything is opened."""

from __future__ import annotations

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.errors import UsageError
from i2i_runtime.uri import Uri, parse_uri

# Outputs that are written with a colon, which is easily forgotten.
_SCHEMES = {"null", "display", "mjpeg"}


def checked_input(options: StreamOptions) -> Uri:
    """The one input that the options name. Raises UsageError for options that make no sense."""
    if options.resume and options.restart:
        raise UsageError("--resume continues and --restart starts over: give one of them.")
    if options.resume and options.steady:
        raise UsageError("--steady depends on earlier frames, so such a job cannot be resumed.")
    if (options.input is None) == (options.camera is None):
        raise UsageError("Name the input with either --input or --camera.")
    _check_numbers(options)
    _check_outputs(options.output)
    text = options.input if options.input is not None else str(options.camera)
    if text == "-" or _is_empty(text):
        raise UsageError(
            f"--input {text!r} is not an input: give a file, a camera or a URI; "
            "data from a pipe must be saved to a file first."
        )
    # Without a clock, a replay is just its clip.
    return parse_uri(text.removeprefix("replay:") if options.policy == "no-clock" else text)


def encoder_options(pairs: list[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as the encoder takes them. Raises UsageError."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"-e {pair} is not an option: write KEY=VALUE, for example -e tune=film.")
        options[key] = value
    return options


def _check_numbers(options: StreamOptions) -> None:
    for name, value, least in (
        ("camera", options.camera, 0),
        ("limit", options.limit, 1),
        ("rate", options.rate, 1),
        ("threads", options.threads, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"--{name} {value} is too small: give {least} or more, or omit it.")
    if options.crf is not None:
        most = _most_crf(options)
        if not 0 <= options.crf <= most:
            raise UsageError(f"--crf {options.crf} is out of range: give 0 (best) to {most} (smallest file).")
    for name, seconds in (("max-staleness", options.max_staleness), ("stall", options.stall)):
        # Not-a-number fails every comparison.
        if seconds is not None and not seconds > 0:
            raise UsageError(f"--{name} {seconds:g} must be greater than 0 (seconds).")


def _most_crf(options: StreamOptions) -> int:
    """H.264 and H.265 go to 51, VP9 and AV1 to 63."""
    codec = options.codec or ("vp9" if any(text.endswith(".webm") for text in options.output) else "h264")
    return 63 if any(name in codec.lower() for name in ("vp8", "vpx", "vp9", "av1")) else 51


def _is_empty(text: str) -> bool:
    """Whether a text names nothing, with or without a scheme before it."""
    uri = parse_uri(text)
    return uri.location == "" and uri.scheme in ("file", "replay", "webcam", "v4l2")


def _check_outputs(outputs: list[str]) -> None:
    seen = set()
    for text in outputs:
        if text == "-" or _is_empty(text):
            raise UsageError(
                f"--output {text!r} is not an output: give a file, a folder or a URI; pipes are not supported."
            )
        if text in _SCHEMES:
            raise UsageError(
                f"--output {text} lacks its colon: write {text}:, or ./{text} for a folder of that name."
            )
        uri = parse_uri(text)
        if uri.scheme == "file" and uri.path.is_char_device():
            raise UsageError(
                f"--output {text} is a device: write null: for no output, virtualcam:DEVICE for a camera."
            )
        place = str(uri.path.absolute().resolve()) if uri.scheme == "file" else text
        if place in seen and uri.scheme != "null":
            raise UsageError(f"--output {uri} is given twice: leave one of them out.")
        seen.add(place)
