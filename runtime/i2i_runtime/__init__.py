"""Runs translation engines on live video and files: frames in, translated frames out."""
