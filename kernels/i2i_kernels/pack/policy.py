"""How the norm of one map is cut into programs: tiles, splits and which kernels, without torch or triton.

Both callers ask here: the torch operators and the export's plugins. The rules follow from the size of the map alone.
Nothing in this file has been measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from i2i_kernels.kind import Kind

SLAB_PIXELS = 4096
"""The largest map, height times width, that one program holds in registers."""

MULTIPROCESSORS = 132
"""Of the GPU that the launches are cut for, an H200; an RTX 4090 has 128, an Orin 8 to 16."""

PROGRAMS_EACH = 4
"""Programs per multiprocessor, at least: with fewer, too few loads are in flight to reach the memory's bandwidth."""

TILE_PIXELS = 32
"""Pixels of a tile of 64 or 32 channels; 16 channels take 64."""

MOST_SPLITS = 1024
MOST_SPLITS_OF_LAYERS = 256
"""Layer norm merges the partials of every channel in every program of the coefficients kernel."""

MERGE_LIMIT = 32
"""With more splits than this, merging them in every apply program costs more than a launch of the coefficients."""

MOST_TILES = 8


@dataclass(frozen=True)
class NormLaunch:
    """The launches of one norm: statistics and apply, with the coefficients between them unless `merges`."""

    block_c: int
    """Channels per tile: 64, 32 or 16."""
    splits: int
    """Runs of pixels, each with partial statistics of its own; a power of two."""
    tiles: int
    """Tiles that a program of apply walks."""
    merges: bool
    """Whether apply merges the partials itself."""


def norm_launch(
    kind: Kind, *, samples: int, channels: int, pixels: int, fewest: bool = False, splits: int | None = None
) -> NormLaunch:
    """For maps `[samples, channels, ...]` of `pixels`.

    With `fewest`, an instance norm is two launches at any size. `splits` is kept if it is given.
    """
    block_c = channel_tile(samples, channels, pixels)
    blocks = -(-channels // block_c) * samples
    if splits is None:
        splits = _splits(kind, blocks, pixels, fewest)
    merges = kind.family == "instance" and splits <= MERGE_LIMIT
    return NormLaunch(block_c, splits, _tiles(blocks, pixels), merges)


def channel_tile(samples: int, channels: int, pixels: int) -> int:
    """Channels per tile: 64, or 32 if 64 makes too few programs; no more than there are."""
    wide = -(-channels // 64) * samples * (pixels // TILE_PIXELS)
    most = 64 if wide >= PROGRAMS_EACH * MULTIPROCESSORS else 32
    tile = 16
    while tile < min(channels, most):
        tile *= 2
    return tile


def tile_pixels(block_c: int) -> int:
    """Pixels per tile of statistics and apply: 16 numbers per thread in tiles of 64 channels, 8 below."""
    return TILE_PIXELS if block_c > 16 else 2 * TILE_PIXELS


def slab_tile(pixels: int) -> int:
    """The power of two that holds a map of `pixels`, 256 or more."""
    return _first_power((256, SLAB_PIXELS), pixels)


def convolution_splits(pixels: int) -> int:
    """Runs of pixels of the experimental convolution: one program each, at most 128 pixels."""
    return _first_power((1, CONVOLUTION_PIXELS // CONVOLUTION_RUN), -(-pixels // CONVOLUTION_RUN))


CONVOLUTION_RUN = 128
"""Pixels per program of the convolution."""

CONVOLUTION_PIXELS = 16384
"""The largest map that the convolution takes: 128 runs of partial statistics."""


def _splits(kind: Kind, blocks: int, pixels: int, fewest: bool) -> int:
    most = MOST_SPLITS if kind.family == "instance" else MOST_SPLITS_OF_LAYERS
    if fewest and kind.family == "instance":
        most = MERGE_LIMIT
    wanted = -(-PROGRAMS_EACH * MULTIPROCESSORS // blocks)
    # A run shorter than a tile would load masked rows.
    longest = _first_power((8, most), -(-pixels // TILE_PIXELS))
    return min(_first_power((8, most), wanted), longest)


def _tiles(blocks: int, pixels: int) -> int:
    """As many as leave every multiprocessor its programs."""
    programs = blocks * -(-pixels // TILE_PIXELS)
    tiles = 1
    while tiles < MOST_TILES and programs // (2 * tiles) >= PROGRAMS_EACH * MULTIPROCESSORS:
        tiles *= 2
    return tiles


def _first_power(bounds: tuple[int, int], least: int) -> int:
    """The first power of two from the lower bound on that is `least` or more, the upper bound if none is."""
    power, most = bounds
    while power < min(least, most):
        power *= 2
    return power
