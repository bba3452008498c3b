"""What frames, clips and images are made of; used by sources, sinks and verify, imports neither."""

# OpenCV before PyAV: both bring their own X libraries, and a window hangs if those of PyAV are loaded first.
from contextlib import suppress

with suppress(ImportError):  # what needs it reports it: `i2i-doctor` runs without
    import cv2  # noqa: F401
