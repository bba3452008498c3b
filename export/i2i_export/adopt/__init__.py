"""A network that somebody else trained becomes an engine."""
