"""Whether a translated file is complete: frames, times, audio, tags and colour are those of its source.

Everything but the images themselves is compared: what `i2i-stream verify IN OUT` prints, and writes as JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from i2i_runtime.errors import SourceError
from i2i_runtime.files import reason_of
from i2i_runtime.media.alpha import alpha_of_frame
from i2i_runtime.media.colour import is_rgb
from i2i_runtime.media.decode import decoder_of, disable_generated_pts, film_of, open_clip, pts_of_frame
from i2i_runtime.media.framing import payload_of
from i2i_runtime.media.timecode import is_timecode, timecode_of

# Written by the container itself, so never the same.
_OWN_TAGS = {
    "encoder",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "handler_name",
    "vendor_id",
    "duration",
    "timecode",  # compared on its own
}
_OWN_TAGS |= {"creation_time", "number_of_frames", "number_of_bytes", "bps"}


_OWN_TAGS |= {"_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags"}
_UNHEARD = Fraction(2, 1000)


@dataclass(frozen=True)
class Check:
    """One thing compared; `source` and `output` say what each file has."""

    name: str
    agrees: bool
    source: str
    output: str


@dataclass(frozen=True)
class _Stream:
    """Another stream than the images: the times of the packets that are played, and a digest of their content."""

    kind: str
    codec: str
    times: tuple[Fraction, ...]
    sha256: str


@dataclass(frozen=True)
class _Contents:
    """The parts of a file that are compared."""

    tick: Fraction
    times: tuple[Fraction, ...]
    size: tuple[int, int]
    rotation: int
    sample_aspect: Fraction
    depth: int
    fields: str
    colour: dict[str, int]
    others: tuple[_Stream, ...]
    attachments: tuple[str, ...]
    chapters: tuple[tuple[Fraction, Fraction, str], ...]
    timecode: str | None
    tags: dict[str, str]
    transparent: bool
    damage: int


def compare_files(source: Path, output: Path) -> list[Check]:
    """All checks, in a fixed order. Times agree within half a tick of the coarser time base. Raises SourceError."""
    before, after = _read(source), _read(output)
    tick = max(before.tick, after.tick)
    checks = [
        _same("frames", len(before.times), len(after.times)),
        _times("times of frames", before.times, after.times, tick),
        _same("size", before.size, after.size),
        _same("rotation", before.rotation, after.rotation),
        _same("shape of pixels", before.sample_aspect, after.sample_aspect),
        _same("bits per sample", before.depth, after.depth),
        _same("fields", before.fields, after.fields),
        _same("transparency", before.transparent, after.transparent),
    ]
    both = [name for name in before.colour if name in after.colour]
    checks += [_same(name, before.colour[name], after.colour[name]) for name in both]
    for kind in sorted({"audio", "subtitle", "video"} | {s.kind for s in (*before.others, *after.others)}):
        had, has = ([s for s in file.others if s.kind == kind] for file in (before, after))
        checks.append(_same(f"{kind} streams", [s.codec for s in had], [s.codec for s in has]))
        for number, (old, new) in enumerate(zip(had, has, strict=False)):
            checks.append(_same(f"{kind} {number} bytes", old.sha256[:12], new.sha256[:12]))
            # Matroska counts in milliseconds, and rounds both the time of a packet and what is hidden before it.
            checks.append(_times(f"{kind} {number} times", old.times, new.times, Fraction(3, 1000)))
    checks.append(_same("timecode", before.timecode, after.timecode))
    checks.append(_same("attachments", before.attachments, after.attachments))
    checks.append(_chapters(before, after))
    lost = {key: value for key, value in before.tags.items() if after.tags.get(key) != value}
    checks.append(Check("tags", not lost, _shown(lost or len(before.tags)), _shown(len(after.tags))))
    checks.append(_same("undecodable packets", 0, after.damage))
    return checks


def _read(path: Path) -> _Contents:
    try:
        with open_clip(path) as container:
            if film_of(container) is None:
                raise SourceError(f"{path} has no video stream, so it cannot be verified: give a video file.")
            return _contents(container)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(
            f"{path} cannot be read as a video ({reason_of(error)}): "
            "give the video that was translated and the output."
        ) from error


def _contents(container: av.container.InputContainer) -> _Contents:
    images = film_of(container)
    assert images is not None
    decoder = decoder_of(images)
    decoder.thread_type = "AUTO"
    disable_generated_pts(container)
    tick = images.time_base or Fraction(1, 1000)
    pace = (images.average_rate or images.guessed_rate or Fraction(30)) * tick
    pts: list[int] = []
    rotation = damage = 0
    transparent = interlaced = False
    frame_colour = (2, 0)
    # Attachments have no packets, and timecode is a track in one container and a tag in another.
    others = [s for s in container.streams if s.type != "attachment" and not is_timecode(s)]
    others.remove(images)
    digests = {s.index: hashlib.sha256() for s in others}
    packet_times: dict[int, list[Fraction]] = {index: [] for index in digests}
    for packet in container.demux():
        if packet.stream.index == images.index:
            try:
                frames = [f for f in decoder.decode(packet) if isinstance(f, av.VideoFrame)]
            except av.error.FFmpegError:
                damage += 1
                continue
            for frame in frames:
                pts.append(pts_of_frame(frame, pts[-1] if pts else None, pace))
                interlaced |= bool(frame.interlaced_frame)
                rotation, frame_colour = frame.rotation, (frame.colorspace, frame.color_range)
                if not transparent and (alpha := alpha_of_frame(frame)) is not None:
                    # Lossy codecs change an opaque channel a little, too.
                    transparent = int(alpha.min()) < 0.97 * np.iinfo(alpha.dtype).max
        elif packet.size and packet.stream.index in digests and _is_played(packet):
            digests[packet.stream.index].update(payload_of(_kind(packet.stream), bytes(packet)))
            packet_times[packet.stream.index].append((packet.pts or 0) * packet.time_base)
    context = images.codec_context
    full = frame_colour[1] == 2 or (context.pix_fmt or "").startswith("yuvj")
    rgb = context.format is not None and is_rgb(context.format.name)
    return _Contents(
        tick=tick,
        times=tuple(moment * tick for moment in pts),
        size=(images.width, images.height),
        rotation=rotation % 360,
        sample_aspect=images.sample_aspect_ratio or Fraction(1),
        depth=max((c.bits for c in context.format.components), default=8)
        if context.format is not None
        else 8,
        fields="interlaced" if interlaced else "progressive",
        colour={
            # RGB came from no matrix and has no other range.
            **({} if rgb else {"matrix": int(frame_colour[0]), "full range": int(full)}),
            "primaries": int(context.color_primaries),
            "transfer": int(context.color_trc),
        },
        others=tuple(
            _Stream(s.type, _kind(s), tuple(packet_times[s.index]), digests[s.index].hexdigest())
            for s in others
            # QuickTime's track of chapters gives no packets; chapters are compared on their own.
            if s.type != "data" or packet_times[s.index]
        ),
        attachments=tuple(s.name or "" for s in container.streams if s.type == "attachment"),
        chapters=tuple(_chapter(entry) for entry in container.chapters()),
        timecode=timecode_of(container, images.index),
        tags={
            key.lower(): value for key, value in container.metadata.items() if key.lower() not in _OWN_TAGS
        },
        transparent=transparent,
        damage=damage,
    )


def _is_played(packet: av.Packet[Any]) -> bool:
    """Whether a packet is not hidden: neither by an edit list nor because it ends before the file begins.

    The latter only fill a decoder's memory, and containers count their times more or less finely.
    """
    end = None if packet.pts is None else (packet.pts + (packet.duration or 0)) * packet.time_base
    return not packet.is_discard and (end is None or packet.duration == 0 or end > _UNHEARD)


def _kind(stream: av.stream.Stream) -> str:
    """What a stream holds, as far as FFmpeg knows it; not the name of the decoder, which is one of several."""
    codec: Any = getattr(stream.codec_context, "codec", None)
    name = getattr(codec, "canonical_name", None) or getattr(stream, "name", None)
    # MP4 does not tell the layers of MPEG audio apart.
    return "mp3" if name in ("mp1", "mp2") else str(name or "unknown")


def _chapter(entry: Any) -> tuple[Fraction, Fraction, str]:
    base = entry["time_base"]
    return entry["start"] * base, entry["end"] * base, entry["metadata"].get("title", "")


def _same(name: str, before: object, after: object) -> Check:
    return Check(name, before == after, _shown(before), _shown(after))


def _times(name: str, before: Sequence[Fraction], after: Sequence[Fraction], tick: Fraction) -> Check:
    off = [i for i, (a, b) in enumerate(zip(before, after, strict=False)) if abs(a - b) > tick / 2]
    if off:
        at = off[0]
        shown = f"{len(off)} differ, the first is number {at}: {float(before[at]):.6f} s"
        return Check(name, False, shown, f"{float(after[at]):.6f} s")
    return Check(name, len(before) == len(after), _span(before), _span(after))


def _chapters(before: _Contents, after: _Contents) -> Check:
    agree = len(before.chapters) == len(after.chapters) and all(
        abs(a[0] - b[0]) < Fraction(1, 500) and abs(a[1] - b[1]) < Fraction(1, 500) and a[2] == b[2]
        for a, b in zip(before.chapters, after.chapters, strict=True)
    )
    return Check("chapters", agree, _shown(len(before.chapters)), _shown(len(after.chapters)))


def _span(times: Sequence[Fraction]) -> str:
    return f"{float(min(times)):.3f} to {float(max(times)):.3f} s" if times else "none"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(str(entry) for entry in value) or "none"
    return str(value)
