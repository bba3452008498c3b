"""Measuring an engine and a pipeline, and comparing two measurements."""
