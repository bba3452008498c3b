"""The content of a packet without the framing that differs between containers."""

from __future__ import annotations

import re

_START_CODE = re.compile(rb"\x00{1,}\x00\x01")
# Parameter sets and delimiters stand in the stream in one container and in its header in another.
_H264_HEADERS = frozenset({7, 8, 9, 13})
_HEVC_HEADERS = frozenset({32, 33, 34, 35})


def payload_of(codec: str, packet: bytes) -> bytes:
    """What a decoder of `codec` (FFmpeg's canonical name) gets from a packet, whatever container it comes from.

    AAC loses its ADTS headers (ISO/IEC 13818-7), H.264 and HEVC their start codes or lengths (ISO/IEC 14496-15).
    """
    if codec == "aac":
        return _without_adts(packet)
    if codec in ("h264", "hevc"):
        return _without_nal_framing(codec, packet)
    return packet


def _without_adts(packet: bytes) -> bytes:
    frames, at = [], 0
    while at < len(packet):
        header = packet[at : at + 7]
        if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
            return packet
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        size = 7 if header[1] & 1 else 9
        if length < size or at + length > len(packet):
            return packet
        frames.append(packet[at + size : at + length])
        at += length
    return b"".join(frames)


def _without_nal_framing(codec: str, packet: bytes) -> bytes:
    units = _units_by_length(packet)
    if units is None:
        units = [unit.rstrip(b"\x00") for unit in _START_CODE.split(packet) if unit]
    headers = _H264_HEADERS if codec == "h264" else _HEVC_HEADERS
    kinds = [unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63 for unit in units if unit]
    kept = [unit for unit, kind in zip(filter(None, units), kinds, strict=True) if kind not in headers]
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in kept)


def _units_by_length(packet: bytes) -> list[bytes] | None:
    """The units of a packet in which each follows its length of four bytes; None if it is framed otherwise."""
    units, at = [], 0
    while at < len(packet):
        end = at + 4 + int.from_bytes(packet[at : at + 4], "big")
        if end > len(packet) or end == at + 4:
            return None
        units.append(packet[at + 4 : end].rstrip(b"\x00"))
        at = end
    return units
