"""Editing and matching ONNX graphs."""
