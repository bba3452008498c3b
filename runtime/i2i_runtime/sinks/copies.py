"""Which streams beside the images a file takes over, tried in memory before the first frame is written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import av.error

from i2i_runtime.media.decode import is_cover
from i2i_runtime.media.origin import Clip
from i2i_runtime.media.timecode import is_timecode

WITH_EDIT_LISTS = frozenset({"mov", "mp4"})
"""The containers that hide what lies before 0 by an edit list; Matroska needs to be told how much to skip."""

# Matroska could hold nearly anything.
_NOT_WRITTEN = (
    "PyAV does not write it to Matroska: add it with ffmpeg -i OUT -i IN -map 0 -map 1:a -c copy NEW.mkv"
)
_LOOK_AHEAD_PACKETS = 2_000
# How much a decoder must hear before what it plays is right: RFC 7845 for Opus, the bit reservoir for MP3.
_PRE_ROLL_S = {"opus": Fraction(8, 100), "mp3": Fraction(8, 100), "vorbis": Fraction(8, 100)}
_TRACK_UID, _CODEC_DELAY = b"\x73\xc5\x88", b"\x56\xaa\x88"


@dataclass(frozen=True)
class Copied:
    """A stream that is copied: its index in the source.

    Packets due before `begin_s` are cut away. `padding_s` is what a player decodes and does not play before 0.
    """

    index: int
    begin_s: Fraction | None = None
    padding_s: Fraction = Fraction(0)


@dataclass(frozen=True)
class Copies:
    """All streams that are copied from a clip, and one sentence for each that is not or not unchanged."""

    clip: Clip
    streams: tuple[Copied, ...]
    notes: tuple[str, ...]


@dataclass
class _Beginning:
    """The first packets of a stream: those that an edit list hides, and the first that is played."""

    hidden: list[Fraction] = field(default_factory=list)
    first: av.Packet[Any] | None = None
    begin_s: Fraction | None = None


def choose_copies(clip: Clip, container: str) -> Copies:
    """Tries each stream of the clip in a file of this container (FFmpeg's name). Raises OSError and FFmpegError."""
    notes: list[str] = []
    copied: list[Copied] = []
    with av.open(clip.path) as source:
        streams = [
            stream for stream in source.streams if _is_copyable(stream, clip, source, container, notes)
        ]
        beginnings = _beginnings(source, streams)
        for stream in streams:
            begin = beginnings[stream.index]
            plan = _plan(stream, begin, container, notes)
            if refuses(container, stream, begin.first, plan):
                why = _NOT_WRITTEN if container == "matroska" else f"{container} cannot hold it"
                notes.append(
                    f"the {_kind(stream)} stream {stream.index} ({_codec(stream)}) was dropped, because {why}"
                )
            else:
                copied.append(plan)
    return Copies(clip, tuple(copied), tuple(notes))


def _is_copyable(
    stream: av.stream.Stream,
    clip: Clip,
    source: av.container.InputContainer,
    container: str,
    notes: list[str],
) -> bool:
    """Whether a container could hold the stream; says so if it never can."""
    if stream.index == clip.stream_index:
        return False
    if isinstance(stream, av.stream.AttachmentStream):
        if container != "matroska":
            notes.append(f"an attachment was dropped, because {container} cannot hold one")
        return False
    if _codec(stream) is not None:
        return True
    kind = getattr(stream, "name", None) or "unknown kind"
    # QuickTime keeps chapters in a track, too.
    if not is_timecode(stream) and not (kind == "bin_data" and source.chapters()):
        notes.append(
            f"the {stream.type} stream {stream.index} ({kind}) was dropped: only audio, subtitle, timecode and "
            "attachment streams are copied"
        )
    return False


def _codec(stream: av.stream.Stream) -> str | None:
    codec: Any = getattr(stream.codec_context, "codec", None)
    return None if codec is None else str(codec.canonical_name)


def _kind(stream: av.stream.Stream) -> str:
    return "cover image" if is_cover(stream) else stream.type


def _beginnings(
    source: av.container.InputContainer, streams: Sequence[av.stream.Stream]
) -> dict[int, _Beginning]:
    """What each stream begins with; a stream that is silent for long has no first packet."""
    found = {stream.index: _Beginning() for stream in streams}
    if not streams:
        return found
    missing = set(found)
    for number, packet in enumerate(source.demux(*streams)):
        if not missing or number >= _LOOK_AHEAD_PACKETS:
            break
        if packet.size == 0 or packet.stream_index not in missing:
            continue
        begin = found[packet.stream_index]
        due = packet.pts if packet.pts is not None else packet.dts
        if packet.is_discard and due is not None:
            begin.hidden.append(due * packet.time_base)
            begin.first = begin.first or packet
            continue
        begin.first = packet
        begin.begin_s = None if due is None else due * packet.time_base
        missing.remove(packet.stream_index)
    return found


def _plan(stream: av.stream.Stream, begin: _Beginning, container: str, notes: list[str]) -> Copied:
    """How a stream is copied: for a container without edit lists, without what one of the source hides."""
    if container in WITH_EDIT_LISTS or begin.begin_s is None:
        return Copied(stream.index)
    # The last hidden packet, or a few, fill the decoder's memory, without which the first sound would be wrong.
    pre_roll_s = _PRE_ROLL_S.get(_codec(stream) or "", Fraction(0))
    needed = [due for due in begin.hidden if due >= begin.begin_s - pre_roll_s] or begin.hidden[-1:]
    begin_s = min([*needed, begin.begin_s])
    cut = len([due for due in begin.hidden if due < begin_s])
    if cut:
        notes.append(
            f"{float(begin_s - min(begin.hidden)):.2f} s of the {_kind(stream)} stream {stream.index}, which the "
            f"source hides by an edit list, were left out, because {container} has none"
        )
    padding_s = max(Fraction(0), -begin_s) if stream.type == "audio" else Fraction(0)
    return Copied(stream.index, begin_s if begin.hidden else None, padding_s)


def refuses(container: str, stream: av.stream.Stream, first: av.Packet[Any] | None, plan: Copied) -> bool:
    """Whether a file of this container with this stream alone cannot be written."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as probe:
            copy = add_copy(probe, stream, plan, first)
            probe.start_encoding()
            if first is not None:
                probe.mux_one(packet_copy(first, copy))
    except (av.error.FFmpegError, ValueError, TypeError):
        return True
    return False


def add_copy(
    output: av.container.OutputContainer,
    stream: av.stream.Stream,
    plan: Copied,
    first: av.Packet[Any] | None = None,
) -> av.stream.Stream:
    """Opens in `output` a stream that is copied. Raises FFmpegError and ValueError."""
    template: Any = stream
    if plan.padding_s and output.format.name in ("matroska", "webm") and first is not None:
        template = _with_padding(stream, first, plan.padding_s)
    copy: av.stream.Stream = output.add_stream_from_template(template, opaque=True)
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


def _with_padding(stream: av.stream.Stream, packet: av.Packet[Any], padding_s: Fraction) -> av.stream.Stream:
    """The same stream, which says how much of its beginning is not played.

    PyAV cannot set that. FFmpeg reads it from the CodecDelay of a Matroska file (RFC 9559), so one of a single packet
    is written in memory, and CodecDelay put in the place of the track's UID, which has the same length.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        copy = output.add_stream_from_template(stream, opaque=True)
        alone = packet_copy(packet, copy)
        alone.pts = alone.dts = 0
        output.mux_one(alone)
    content = buffer.getvalue()
    at = content.index(_TRACK_UID)
    delay = round(padding_s * 1_000_000_000).to_bytes(8, "big")
    padded = content[:at] + _CODEC_DELAY + delay + content[at + 3 + 8 :]
    padded_stream: av.stream.Stream = av.open(io.BytesIO(padded), "r").streams.audio[0]
    return padded_stream


def packet_copy(packet: av.Packet[Any], stream: av.stream.Stream) -> av.Packet[Any]:
    """A packet of the same content and times that belongs to another stream."""
    copy: av.Packet[Any] = av.Packet(bytes(packet))
    copy.time_base = packet.time_base
    due = packet.pts if packet.pts is not None else packet.dts
    copy.pts = 0 if due is None else due
    copy.dts = copy.pts if packet.dts is None else packet.dts
    copy.duration, copy.is_keyframe, copy.stream = packet.duration, packet.is_keyframe, stream
    return copy


def played_packets(
    source: av.container.InputContainer, copies: Copies
) -> Iterator[tuple[Fraction, Copied, av.Packet[Any]]]:
    """The packets of the copied streams with the moment each is due, in seconds, without those that are cut away."""
    plans = {plan.index: plan for plan in copies.streams}
    begun: set[int] = set()
    due_before: dict[int, int] = {}
    for packet in source.demux(*(source.streams[index] for index in plans)) if plans else ():
        if packet.size == 0:
            continue
        plan = plans[packet.stream_index]
        due = packet.dts if packet.dts is not None else packet.pts
        if due is None and is_cover(packet.stream):
            due = packet.pts = packet.dts = 0
        if due is None:
            continue
        when = due * packet.time_base
        if packet.is_discard:
            # Behind the last played packet no container hides anything.
            if packet.stream_index in begun or (plan.begin_s is not None and when < plan.begin_s):
                continue
        else:
            begun.add(packet.stream_index)
        if packet.stream.type == "audio" and not packet.duration:
            # Matroska may not say it, and QuickTime would take the last sound for one of no length.
            packet.duration = max(0, due - due_before.get(packet.stream_index, due))
        due_before[packet.stream_index] = due
        yield when, plan, packet
