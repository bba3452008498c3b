"""Visitors of a page who open connections and never finish a request; started by `soak.py visitors`.

python runtime/stress/strangers.py PORT NUMBER      # runs until it is killed
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import time

# Nothing, half a head, a whole request without the token, the beginning of TLS.
_SAYINGS = (
    b"",
    b"GET",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01",
)


def main() -> None:
    """Keeps `NUMBER` connections open; a new one takes the place of each that the server or we ourselves close."""
    port, number = int(sys.argv[1]), int(sys.argv[2])
    sayings, held = itertools.cycle(_SAYINGS), list[socket.socket]()
    while True:
        with contextlib.suppress(OSError):
            while len(held) < number:
                stranger = socket.create_connection(("127.0.0.1", port), 5)
                stranger.sendall(next(sayings))
                stranger.setblocking(False)
                held.append(stranger)
        time.sleep(0.1)
        gone = held[:1] + [stranger for stranger in held[1:] if _was_closed(stranger)]
        for stranger in gone:
            stranger.close()
        held = [stranger for stranger in held if stranger not in gone]


def _was_closed(stranger: socket.socket) -> bool:
    try:
        return stranger.recv(65536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


if __name__ == "__main__":
    main()
