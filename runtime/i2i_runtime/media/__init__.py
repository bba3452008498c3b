"""What frames, clips and images are made of; used by sources, sinks and verify, imports neither."""

# OpenCV before PyAV: both bring their own X libraries, and a window hangs if those of PyAV are loaded first.
import cv2  # noqa: F401
