"""Inputs and outputs as one line of text, spelled as jetson-utils spells them.

`0` and `webcam:0` are cameras, `replay:clip.mp4` a clip at its own pace, `test://street` a rendered scene, `null:`
no output; a text without a scheme is a path. A password in a URI never reaches a log line: `Uri.shown` is printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# A scheme has two letters or more, so that `C:\clip.mp4` stays a path.
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):(//)?(.*)$", re.DOTALL)
# A password may hold spaces, slashes and more @, so all before the last @ is taken for it.
_CREDENTIALS = (re.compile(r"(?<=//)[^\s/@:]+:[^/\n]*@"), re.compile(r"(?<=//)[^\s@]\S*@"))
# Streaming services take the last part of the path as the key of the channel.
_STREAM_KEY = re.compile(r"(?i)(\brtmps?://[^\s/?]+/[^\s?]*/)[^\s/?]+")
# Any value of a query may be a ticket to the stream, whatever its name.
_QUERY = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s?]*\?)(\S+)")
_VALUE = re.compile(r"(^|[&;])([^=&;]*=)?[^&;#]+")
# Recorders write /user=NAME_password=SECRET_channel=1.sdp, so an underscore ends a word here and not a value.
_SECRET_PARAMETER = re.compile(
    r"(?i)(?<![a-z])((?:api|auth|stream)?key|token|password|passphrase|passwd|pass|pwd|secret|auth|signature|sig)=[^&#\s]*"
)
_DEVICE = re.compile(r"^/dev/(?:video[0-9]+|v4l/by-(?:path|id)/[^/]+)$")
_BARE_WORDS = {"screen", "virtualcam"}


@dataclass(frozen=True)
class Uri:
    """`scheme` in lower case ("file" if the text is a path), `location` what follows it, `text` as given."""

    scheme: str
    location: str
    text: str

    @classmethod
    def of_path(cls, path: Path) -> Uri:
        """The URI of a file, whatever its name looks like."""
        return cls("file", str(path), str(path))

    @property
    def path(self) -> Path:
        """The location as a path; absolute if FFmpeg would read the beginning of its name as a protocol."""
        path = Path(self.location)  # which makes `a:b.mp4` of `./a:b.mp4`
        return path.absolute() if path.parts and ":" in path.parts[0] else path

    @property
    def shown(self) -> str:
        """The text without user names, passwords and tokens: the only form that may be printed or stored."""
        return redact(self.text)

    @property
    def address(self) -> str:
        """The text with its scheme in lower case, as libraries want it."""
        return self.scheme + self.text[len(self.scheme) :]

    def __str__(self) -> str:
        return self.shown


def parse_uri(text: str) -> Uri:
    """Splits a URI or path into scheme and location; never raises and never touches the disk."""
    if text.isascii() and text.isdecimal():
        return Uri("webcam", text, text)
    if text in _BARE_WORDS:
        return Uri(text, "", text)
    if _DEVICE.match(text):
        return Uri("v4l2", text, text)
    match = _SCHEME.match(text)
    if match is None:
        return Uri("file", text, text)
    scheme, slashes, rest = match.group(1).lower(), match.group(2), match.group(3)
    if scheme == "file" and slashes:
        # file:///absolute and file://host/path: only the local form is supported.
        return Uri("file", rest, text)
    return Uri(scheme, rest, text)


def redact(text: str) -> str:
    """`text` with the secrets of any URI in it replaced by `***`: credentials, stream keys, values of queries."""
    for credentials in _CREDENTIALS:
        text = credentials.sub("***@", text)
    text = _STREAM_KEY.sub(r"\1***", text)
    text = _QUERY.sub(lambda m: m.group(1) + _VALUE.sub(r"\1\2***", m.group(2)), text)
    return _SECRET_PARAMETER.sub(lambda m: f"{m.group(1)}=***", text)
