"""Who gets a connection to a server of this process: `PLACES` at once, and never the last descriptors of the job.

A visitor without a token can do no more than connect. Each connection has `HEAD_S` seconds until the head of its
request is complete. If all places are taken, the one that has waited longest without asking makes room, so that silent
visitors keep nobody out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PLACES = 64
HEAD_S = 10.0
AT_ONCE = 16
"""How many are accepted before what they say is read: fewer than places, so that who asks at once is heard."""
# Descriptors that visitors leave to the job: its files, devices and processes.
_RESERVE = 32
_FULL = (errno.EMFILE, errno.ENFILE)


class _Visitor(socket.socket):
    """An accepted connection; `asking` once a complete head has come."""

    door: Door
    asking = False
    leaving = False
    _timer: asyncio.TimerHandle | None = None

    def wait_for_head(self) -> None:
        """Ends the connection unless `ask` is called in time."""
        self.asking = False
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEAD_S, self.leave)

    def ask(self) -> None:
        self.asking = True
        self._stop_timer()

    def leave(self) -> None:
        """Ends the connection; its owner, the event loop, closes the socket when it notices."""
        self.leaving = True
        self._stop_timer()
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stop_timer()
        self.door.visitors.pop(self.fileno(), None)
        super().close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Door(socket.socket):
    """A listening socket that asyncio accepts from; `visitors` are the open connections by their descriptor."""

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        """Raises OSError if the address is taken or foreign."""
        listener = socket.create_server(address, family=family)
        super().__init__(family, socket.SOCK_STREAM, fileno=listener.detach())
        self.visitors: dict[int, _Visitor] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def listen(self, backlog: int = 0) -> None:
        """Lets more visitors wait than asyncio, which names a `backlog`, accepts before it listens to anybody."""
        super().listen(2 * PLACES)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next visitor that gets a place. Raises BlockingIOError if nobody is left who does."""
        while True:
            try:
                accepted, address = super().accept()
            except OSError as error:
                if error.errno not in _FULL or not self._turn_away():
                    raise BlockingIOError from error
                continue
            visitor = _Visitor(self.family, self.type, self.proto, fileno=accepted.detach())
            visitor.door = self
            if self._has_place(visitor.fileno()):
                visitor.wait_for_head()
                self.visitors[visitor.fileno()] = visitor
                return visitor, address
            visitor.close()

    def close(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        super().close()

    def _has_place(self, number: int) -> bool:
        # Descriptors are given out from the lowest number on.
        if number >= _most_descriptors() - _RESERVE or len(self.visitors) >= 2 * PLACES:
            return False
        present = [visitor for visitor in self.visitors.values() if not visitor.leaving]
        if len(present) < PLACES:
            return True
        silent = next((visitor for visitor in present if not visitor.asking), None)
        if silent is not None:
            silent.leave()
        return silent is not None

    def _turn_away(self) -> bool:
        """Closes one waiting connection although no descriptor is left: otherwise it would be offered for ever."""
        os.close(self._spare)
        try:
            super().accept()[0].close()
        except OSError:
            return False
        finally:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)
        return True


class HeadProtocol(H11Protocol):
    """HTTP/1.1 that tells the door whether a request has been made, for each request on a connection."""

    door: Door

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        visitor = self._visitor()
        if visitor is None:
            return
        if self.conn.their_state is h11.IDLE:
            visitor.wait_for_head()
        else:
            visitor.ask()

    def _visitor(self) -> _Visitor | None:
        found = self.transport.get_extra_info("socket")
        return None if found is None else self.door.visitors.get(found.fileno())


def _most_descriptors() -> int:
    """How many descriptors this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 1 << 30
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
