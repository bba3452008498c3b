"""Modules of this project as processes of their own."""

from __future__ import annotations

import sys

# `python -m` puts the current folder first among the places of modules, so that an `av.py` or `json.py` that lies
# among somebody's downloads would be run. `sys` is part of the interpreter; everything else is imported afterwards.
_WITHOUT_THE_FOLDER = "import sys; sys.path[:] = [place for place in sys.path if place]; "
_RUN = "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as `python -m` does, but never imports from the current folder."""
    return [sys.executable, "-c", _WITHOUT_THE_FOLDER + _RUN, module, *arguments]


def script_command(script: str) -> list[str]:
    """The command that runs Python text, likewise."""
    return [sys.executable, "-c", _WITHOUT_THE_FOLDER + script]
