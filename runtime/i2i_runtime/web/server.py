"""A small web server on a thread of its own (starlette and uvicorn), behind the rules of `access`."""

from __future__ import annotations

import importlib.util
import logging
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from i2i_runtime.errors import SinkError
from i2i_runtime.extras import install_command
from i2i_runtime.web.auth import Access, Guard, is_loopback

if TYPE_CHECKING:
    from starlette.routing import BaseRoute


class WebServer:
    """Serves `routes` until it is closed. `port` is the one really bound, where 0 was asked for."""

    def __init__(self, access: Access, routes: Sequence[BaseRoute], what: str) -> None:
        """`what` names the server in messages. Raises SinkError if the address is taken or foreign."""
        require_serve_extra(what)
        import uvicorn
        from starlette.applications import Starlette

        from i2i_runtime.web.door import AT_ONCE, Door, HeadProtocol

        family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
        try:
            self._socket = Door((access.host, access.port), family)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while")[0]
            raise SinkError(
                f"{what} cannot listen on {access.host}:{access.port} ({reason}): choose another port, "
                "or an address of this machine."
            ) from error
        self.port = int(self._socket.getsockname()[1])
        self.url = f"{access.scheme}://{_spelled(access.host)}:{self.port}/"
        # A stranger's broken request is not worth a line on the terminal; a user's own logging still gets it.
        for library in ("uvicorn", "asyncio"):
            logging.getLogger(library).addHandler(logging.NullHandler())
        app: Any = Guard(Starlette(routes=list(routes)), access)
        try:
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                # Another loop would accept past the door.
                loop="asyncio",
                http=type("_HeadProtocol", (HeadProtocol,), {"door": self._socket}),
                backlog=AT_ONCE,
                h11_max_incomplete_event_size=16384,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
                server_header=False,
                ssl_certfile=access.certificate,
                ssl_keyfile=access.key,
                # Without one the library would ask for it on the terminal; `open_access` refuses keys that have one.
                ssl_keyfile_password="none",
            )
            config.load()
        except OSError as error:
            self._socket.close()
            raise SinkError(
                f"{what} cannot use the certificate {access.certificate} ({error}): give matching PEM files without "
                "a pass phrase."
            ) from error
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name=what, daemon=True
        )
        self._thread.start()
        _announce(what, self.url, access)

    def close(self) -> None:
        """Ends all connections; safe to call twice."""
        self._server.should_exit = True
        self._thread.join(timeout=3.0)
        self._socket.close()


def require_serve_extra(what: str) -> None:
    """Raises SinkError with the command that installs what is missing."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise SinkError(
            f"{what} needs {' and '.join(missing)}: run `{install_command('serve')}` in the project's folder."
        )


def _announce(what: str, url: str, access: Access) -> None:
    """Shows the address on the terminal, and a token that was made up just now: here, once, and nowhere
    else.
    """
    address = f"{url}?token={access.token}" if access.generated else url
    print(f"{what}: {address}", file=sys.stderr)
    if access.certificate is None and not is_loopback(access.host):
        print(
            "The connection is not encrypted: give --tls-cert and --tls-key to change that.", file=sys.stderr
        )


def _spelled(host: str) -> str:
    return f"[{host}]" if ":" in host else host
