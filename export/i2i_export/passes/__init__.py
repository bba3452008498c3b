"""Exact graph rewrites."""
