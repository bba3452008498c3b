"""What passes items between threads: a bounded queue, a turnstile that restores their order, a mailbox of one."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Aborted(Exception):
    """The job has ended early; the thread that meets this exits silently."""


class Channel(Generic[T]):
    """Holds at most `capacity` items.

    When it is full, `put` waits for room, or with `keep_newest` drops the oldest item and counts it. Items leave in
    the order they came, each with a ticket that counts from 0, so that several consumers can restore the order.
    """

    def __init__(self, capacity: int, *, keep_newest: bool = False) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._keep_newest = keep_newest
        self._changed = Condition()
        self._tickets = 0
        self._closed = False
        self._aborted = False
        self.dropped = 0

    def put(self, item: T) -> None:
        """Adds an item. Raises Aborted."""
        with self._changed:
            if self._keep_newest and len(self._items) >= self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._aborted or len(self._items) < self._capacity)
            if self._aborted:
                raise Aborted
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> tuple[int, T] | None:
        """The oldest item and its ticket, or None once the channel is closed and empty. Raises Aborted."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._closed or bool(self._items))
            if self._aborted:
                raise Aborted
            if not self._items:
                return None
            item = self._items.popleft()
            ticket = self._tickets
            self._tickets += 1
            self._changed.notify_all()
            return ticket, item

    def close(self) -> None:
        """No item comes after this; those that wait are still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Wakes everybody who waits, with Aborted."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()


class Turnstile:
    """Lets threads through in the order of their tickets."""

    def __init__(self) -> None:
        self._next = 0
        self._changed = Condition()
        self._aborted = False

    def wait(self, ticket: int) -> None:
        """Returns when all earlier tickets have passed. Raises Aborted."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._next == ticket)
            if self._aborted:
                raise Aborted

    def advance(self) -> None:
        """The thread let through last has passed."""
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._changed.notify_all()


class Mailbox(Generic[T]):
    """Hands the newest item to a consumer that may be slow; an item that was not fetched is replaced and counted.

    Unlike a channel its `get` has a time limit.
    """

    def __init__(self) -> None:
        self.replaced = 0
        self.closed = False
        self._item: T | None = None
        self._changed = Condition()

    def put(self, item: T) -> None:
        with self._changed:
            if self._item is not None:
                self.replaced += 1
            self._item = item
            self._changed.notify()

    def get(self, timeout_s: float) -> T | None:
        """Takes the newest item; None if none came in time. An item that waits at `close` is still delivered."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._item is not None, timeout_s)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()
