"""Runs translation engines on live video and files: frames in, translated frames out.

    import i2i_runtime as i2i

    i2i.translate("drive.mp4", "night.mp4", engine="day2night")

    for frame in i2i.frames("drive.mp4", engine="day2night"):
        show(frame.pixels)  # [H, W, 3] uint8 RGB

    engine = i2i.open_engine("day2night")
    night = engine.infer(image)  # [H, W, 3] uint8 RGB, any H and W

What `__all__` lists is public. Sources, stages and sinks of your own are subclasses of `Source`, `Stage` and `Sink`
in a `Pipeline`. Every error that a user can cause is an `I2IError` whose text is one sentence. `FakeEngine`,
`RecordedSource`, `NullSink` and `CollectingSink` are for the tests of your own programs. Names are imported when they
are first used, so importing the package takes a few milliseconds.
"""

import os

# OpenCV reads it when it is loaded, and refuses larger images by their header: a small file can hold gigabytes.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing `typing` takes time
if TYPE_CHECKING:
    from i2i_runtime.api import frames, translate
    from i2i_runtime.engines import Engine, open_engine
    from i2i_runtime.engines.fake import FakeEngine
    from i2i_runtime.errors import EngineError, I2IError, SinkError, SourceError, UsageError
    from i2i_runtime.frame import Frame, Image
    from i2i_runtime.job import Outcome
    from i2i_runtime.metadata import EngineMetadata
    from i2i_runtime.pipeline import Pipeline
    from i2i_runtime.sinks import Closed, Sink, SinkOptions, open_sink
    from i2i_runtime.sinks.collecting import CollectingSink
    from i2i_runtime.sinks.null import NullSink
    from i2i_runtime.sources import Source, SourceOptions, SourceWrapper, open_source
    from i2i_runtime.sources.recorded import RecordedSource
    from i2i_runtime.stages import Stage
    from i2i_runtime.stats import JobStats, Progress
    from i2i_runtime.style import style_from_text

    __version__: str

__all__ = [
    "Closed",
    "CollectingSink",
    "Engine",
    "EngineError",
    "EngineMetadata",
    "FakeEngine",
    "Frame",
    "I2IError",
    "Image",
    "JobStats",
    "NullSink",
    "Outcome",
    "Pipeline",
    "Progress",
    "RecordedSource",
    "Sink",
    "SinkError",
    "SinkOptions",
    "Source",
    "SourceError",
    "SourceOptions",
    "SourceWrapper",
    "Stage",
    "UsageError",
    "__version__",
    "frames",
    "open_engine",
    "open_sink",
    "open_source",
    "style_from_text",
    "translate",
]

_HOMES = {
    "api": ("frames", "translate"),
    "engines": ("Engine", "open_engine"),
    "engines.fake": ("FakeEngine",),
    "errors": ("EngineError", "I2IError", "SinkError", "SourceError", "UsageError"),
    "frame": ("Frame", "Image"),
    "job": ("Outcome",),
    "metadata": ("EngineMetadata",),
    "pipeline": ("Pipeline",),
    "sinks": ("Closed", "Sink", "SinkOptions", "open_sink"),
    "sinks.collecting": ("CollectingSink",),
    "sinks.null": ("NullSink",),
    "sources": ("Source", "SourceOptions", "SourceWrapper", "open_source"),
    "sources.recorded": ("RecordedSource",),
    "stages": ("Stage",),
    "stats": ("JobStats", "Progress"),
    "style": ("style_from_text",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker shall refuse names that are not public

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("i2i-stream")
        if name not in _HOME_OF:
            raise AttributeError(f"module 'i2i_runtime' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"i2i_runtime.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
