"""Stages that stand between the engine and the sinks."""
