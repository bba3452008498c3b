"""From translated images to the frames that an encoder takes: rotation, colour, alpha and time."""

from __future__ import annotations

import av

from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame
from i2i_runtime.media.alpha import fitting_alpha, is_opaque, put_alpha
from i2i_runtime.media.colour import ColourConverter
from i2i_runtime.media.decode import stored_from_upright
from i2i_runtime.sinks.encoder import Encoding


class StoredFrames:
    """Makes the frames of one output file; `shift` is added to every pts, in units of the time base."""

    def __init__(self, name: str, encoding: Encoding, shift: int) -> None:
        self._name, self._encoding, self._shift = name, encoding, shift
        self._converter = ColourConverter(encoding.colour, encoding.pixel_format, encoding.height)
        self.dropped_alpha = False
        """Whether the source had transparency that the encoding cannot hold."""

    def stored(self, translated: Frame, source: Frame) -> av.VideoFrame:
        """The frame as the file stores it. Raises SinkError if its size is not that of the first."""
        encoding = self._encoding
        image = stored_from_upright(translated.pixels, encoding.rotation)
        height, width = image.shape[:2]
        if (width, height) != (encoding.width, encoding.height):
            raise SinkError(
                f"{self._name} was started with images of {encoding.width}x{encoding.height} and frame "
                f"{source.index} is {width}x{height}: add --size, or write to a folder of images."
            )
        frame = self._converter.frame_from_rgb(image, encoding.pixel_format)
        if encoding.has_alpha:
            alpha = fitting_alpha(source.alpha, source.pixels, translated.pixels)
            put_alpha(frame, None if alpha is None else stored_from_upright(alpha, encoding.rotation))
        elif not self.dropped_alpha and source.alpha is not None:
            self.dropped_alpha = not is_opaque(source.alpha)
        frame.pts, frame.time_base = translated.pts + self._shift, encoding.time_base
        # ProRes writes the tags of the image, not those of the stream.
        frame.color_primaries, frame.color_trc = encoding.colour.primaries, encoding.colour.transfer
        return frame
