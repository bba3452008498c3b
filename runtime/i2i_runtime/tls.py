"""Whom a stream comes from and goes to: servers over TLS must show a certificate that this machine trusts."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from i2i_runtime.logs import event
from i2i_runtime.uri import redact

_log = logging.getLogger(__name__)
TLS_PORTS = {"https": 443, "rtsps": 322, "rtmps": 443}


def trust_options(uri: str, insecure: bool) -> dict[str, str]:
    """The options with which FFmpeg checks the server's certificate and name; it checks neither by itself.

    An address without TLS gets them too, because its server may redirect to one that has it.
    """
    if insecure:
        if urlsplit(uri).scheme in TLS_PORTS:
            _log.warning(
                "The certificate of %s is not checked (--tls-insecure): whoever answers there gets the password "
                "and sees or replaces the images.",
                redact(uri),
                extra=event("tls_insecure", uri=redact(uri)),
            )
        return {}
    return {"tls_verify": "1", "ca_file": str(authorities() or "")}


def authorities() -> Path | None:
    """The file of certificate authorities that this machine trusts; `SSL_CERT_FILE` names another one."""
    paths = ssl.get_default_verify_paths()
    files = [paths.cafile, paths.openssl_cafile]
    if find_spec("certifi") is not None:
        import certifi

        files.append(certifi.where())
    return next((Path(file) for file in files if file is not None and Path(file).is_file()), None)


def certificate_problem(uri: str, timeout_s: float) -> str | None:
    """Why the certificate of the server at `uri` is refused, and what to do; None if that is not the reason.

    Asked after a connection has failed, because FFmpeg seldom tells. Nothing is sent but the greeting of TLS.
    """
    parts = urlsplit(uri)
    if parts.scheme not in TLS_PORTS or not parts.hostname:
        return None
    trusted = authorities()
    if trusted is None:
        return (
            "this machine has no list of certificate authorities: install ca-certificates, or name the file in "
            "SSL_CERT_FILE"
        )
    context = ssl.create_default_context(cafile=str(trusted))
    address = (parts.hostname, parts.port or TLS_PORTS[parts.scheme])
    with contextlib.suppress(OSError), socket.create_connection(address, timeout_s) as plain:
        try:
            context.wrap_socket(plain, server_hostname=parts.hostname).close()
        except ssl.SSLCertVerificationError as error:
            return (
                f"its certificate is not trusted: {error.verify_message.rstrip('.')}; for a camera with a "
                "certificate of its own put that into SSL_CERT_FILE, or give --tls-insecure"
            )
    return None
