"""One waiting item, always the newest: how a slow consumer stays current instead of falling behind."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands the newest item from one thread to another; an item nobody fetched is replaced and counted."""

    def __init__(self) -> None:
        self.replaced = 0
        self.closed = False
        self._item: T | None = None
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        with self._changed:
            if self._item is not None:
                self.replaced += 1
            self._item = item
            self._changed.notify()

    def get(self, timeout_s: float) -> T | None:
        """The newest item, taken out; None when nothing came in time. What waits at `close` is still
        handed out.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._item is not None, timeout_s)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()
