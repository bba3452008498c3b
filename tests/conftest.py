"""What every test relies on: Ctrl-C means an interrupt."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Restores SIGINT, which a shell ignores in what it starts in the background (`nohup make test &`).

    Python installs no handler over an ignored signal and child processes inherit the ignoring, so that a test
    which interrupts itself or a child would wait for ever. Every pytest-xdist worker passes here too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
