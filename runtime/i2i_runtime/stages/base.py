"""What every stage is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from i2i_runtime.frame import Frame


class Stage(ABC):
    """Changes every translated frame between the engine and the sinks: an overlay, a filter.

    Threads: all stages of a job run in one thread, in the order given, one frame at a time; `close` is called once by
    the thread that runs the job.

    Buffers: `translated` belongs to the stage that processes it, so its pixels may be changed, unless `source.is_slate`
    says that both frames share them. The pixels of `source` must not be changed.
    """

    @abstractmethod
    def process(self, translated: Frame, source: Frame) -> Frame:
        """The frame that goes on, mostly `translated.with_pixels(...)`. Raises I2IError, which ends the job.

        Both frames hold `[H, W, 3] uint8 RGB`, full range. The output may have another size, the same for all frames.
        """

    def close(self) -> None:  # noqa: B027 (an empty default, not a forgotten abstract method)
        """Releases what the stage holds."""
