"""A Jetson board: what a camera and an engine on it need, and what makes it slow."""

from __future__ import annotations

from collections.abc import Iterator

from i2i_runtime.board import Board
from i2i_runtime.doctor.finding import Finding

_TOPIC = "Jetson"
_RESTART_ARGUS = "sudo systemctl restart nvargus-daemon"
_JETPACKS = (6, 7)


def jetson_findings(board: Board | None) -> Iterator[Finding]:
    """What the facts of a board mean; nothing for a machine that is not one."""
    if board is None:
        return
    yield _release(board)
    yield _power(board)
    yield _heat(board)
    yield from _over_current(board)
    yield _memory(board)
    yield _argus(board)
    yield _capture()
    yield _rights(board)
    yield _encoder(board)


def _release(board: Board) -> Finding:
    detail = f"JetPack {board.jetpack or 'unknown'}, Jetson Linux {board.l4t or 'unknown'}"
    name = board.model or "board"
    if board.jetpack_major and board.jetpack_major not in _JETPACKS:
        detail += "; its Python 3.8 is too old: JetPack 6 or 7 is needed"
        return Finding(_TOPIC, name, False, detail, "flash JetPack 6 with NVIDIA SDK Manager")
    return Finding(_TOPIC, name, True, detail)


def _power(board: Board) -> Finding:
    if board.unknown:
        detail = f"{' and '.join(board.unknown)} cannot be read, so speeds of this board are not comparable"
        return Finding(_TOPIC, "power mode", False, detail, "sudo nvpmodel -q")
    shown = ", ".join(f"{clock.unit} {clock.current_mhz:.0f} MHz" for clock in board.clocks)
    locked = all(clock.is_locked for clock in board.clocks)
    watts = sum(rail.watts for rail in board.rails)
    power = f"; {watts:.1f} W on {len(board.rails)} rails" if board.rails else ""
    state = "locked" if locked else "not locked"
    detail = f"{board.power_mode}, clocks {state}: {shown}{power}"
    return Finding(_TOPIC, "power mode", True, detail, "" if locked else "sudo jetson_clocks")


def _heat(board: Board) -> Finding:
    detail = f"{board.hottest_c:.0f} degrees at the hottest zone" if board.temperatures_c else "not readable"
    if board.throttling:
        detail += f"; slowed down by {', '.join(board.throttling)}"
    if board.is_hot:
        return Finding(_TOPIC, "temperature", False, f"{detail}; check the fan", "sudo jetson_clocks --fan")
    return Finding(_TOPIC, "temperature", bool(board.temperatures_c), detail)


def _over_current(board: Board) -> Iterator[Finding]:
    events = {name: count for name, count in board.over_current.items() if count}
    if events:
        counted = ", ".join(f"{name} {count} times" for name, count in events.items())
        detail = (
            f"the board was slowed down because it drew too much current ({counted}): use a stronger supply"
        )
        yield Finding(_TOPIC, "over-current", False, detail)


def _memory(board: Board) -> Finding:
    detail = f"{board.memory_mb} MB shared with the GPU, {board.swap_mb} MB of swap"
    if board.memory_mb <= 8192 and board.swap_mb == 0:
        return Finding(
            _TOPIC,
            "memory",
            False,
            f"{detail}; building a plan may fail",
            "sudo systemctl start nvzramconfig",
        )
    return Finding(_TOPIC, "memory", True, detail)


def _argus(board: Board) -> Finding:
    if board.argus_runs:
        return Finding(_TOPIC, "argus", True, "the camera daemon runs, which csi:// needs")
    return Finding(_TOPIC, "argus", False, "the camera daemon does not run, so csi:// fails", _RESTART_ARGUS)


def _capture() -> Finding:
    """Whether GStreamer loads in this environment and has NVIDIA's capture element."""
    from i2i_runtime.errors import SourceError
    from i2i_runtime.sources.gstreamer import INSTALL, has_element

    try:
        if has_element("nvarguscamerasrc"):
            return Finding(_TOPIC, "capture", True, "GStreamer has nvarguscamerasrc, which csi:// needs")
    except SourceError as error:
        return Finding(_TOPIC, "capture", False, str(error).partition(":")[0], INSTALL)
    detail = "GStreamer does not have nvarguscamerasrc, so csi:// does not work"
    return Finding(_TOPIC, "capture", False, detail, "sudo apt install nvidia-l4t-gstreamer")


def _rights(board: Board) -> Finding:
    if board.in_group_video:
        return Finding(_TOPIC, "group video", True, "this user may open cameras")
    detail = "this user is not in group video, so cameras and the encoder cannot be opened"
    return Finding(_TOPIC, "group video", False, detail, "sudo usermod -aG video,render $USER")


def _encoder(board: Board) -> Finding:
    if board.has_encoder:
        return Finding(_TOPIC, "video encoder", True, "the board has one; files and pushes use libx264")
    detail = "this board has no hardware video encoder (Orin Nano never has); libx264 is used"
    return Finding(_TOPIC, "video encoder", False, detail)
