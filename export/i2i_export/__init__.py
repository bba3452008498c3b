"""Turns a run folder or a foreign network into an engine file."""
