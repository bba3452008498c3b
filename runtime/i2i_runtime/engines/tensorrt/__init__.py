"""The TensorRT back end: the device, the API of each release, frame slots, plans and whether they fit."""
