"""How a norm is cut into programs: enough for a large GPU, and few enough partials."""

from __future__ import annotations

import math

import pytest

from i2i_kernels.kind import Kind
from i2i_kernels.pack.policy import (
    MERGE_LIMIT,
    MULTIPROCESSORS,
    PROGRAMS_EACH,
    SLAB_PIXELS,
    convolution_splits,
    norm_launch,
    slab_tile,
    tile_pixels,
)
from i2i_kernels.pack.recipes import Variant, recipe

MAPS = {
    "64x64": (256, 64, 64),
    "180x320": (256, 180, 320),
    "256x256": (64, 256, 256),
    "720x1280": (64, 720, 1280),
}
"""C, H, W of a ResNet generator's norms."""


@pytest.mark.parametrize("size", MAPS)
def test_every_multiprocessor_has_its_programs(size: str) -> None:
    channels, height, width = MAPS[size]
    cut = norm_launch(Kind(), samples=1, channels=channels, pixels=height * width)
    variant = Variant(block_c=cut.block_c, splits=cut.splits)
    sizes = {"N": 1, "C": channels, "H": height, "W": width}
    applied = Variant(block_c=cut.block_c, splits=0, tiles=cut.tiles)
    for plan in (recipe("norm_stats", variant), recipe("norm_apply", applied)):
        assert math.prod(plan.launch_grid(**sizes)) >= PROGRAMS_EACH * MULTIPROCESSORS
    assert not cut.merges
    # Partials are two float32 per run and channel; the map is two bytes per pixel and channel.
    assert 8 * cut.splits <= 2 * height * width / 4


@pytest.mark.parametrize("size", MAPS)
def test_no_program_of_the_statistics_is_idle_or_walks_masked_tiles(size: str) -> None:
    channels, height, width = MAPS[size]
    cut = norm_launch(Kind(), samples=1, channels=channels, pixels=height * width)
    run = -(-height * width // cut.splits)
    assert run >= tile_pixels(cut.block_c)
    assert run * (cut.splits - 1) < height * width


@pytest.mark.parametrize("family", ["instance", "layer", "clamp"])
@pytest.mark.parametrize("pixels", [1, 35, 1024, 4096, 16384, 2160 * 3840])
@pytest.mark.parametrize("channels", [1, 16, 48, 64, 512])
def test_a_cut_is_one_that_the_kernels_can_take(family: str, pixels: int, channels: int) -> None:
    kind = Kind(family)  # type: ignore[arg-type]
    cut = norm_launch(kind, samples=2, channels=channels, pixels=pixels)
    plan = recipe("norm_coefficients", Variant(kind=kind, block_c=cut.block_c, splits=cut.splits))
    assert int(str(plan.constants["SPLITS"])) % int(str(plan.constants["BLOCK_S"])) == 0
    assert cut.merges == (family == "instance" and cut.splits <= MERGE_LIMIT)
    assert cut.block_c in (16, 32, 64)
    assert cut.splits > 1, "one split means the slab"


def test_with_fewest_launches_an_instance_norm_is_a_pair_at_any_size() -> None:
    cut = norm_launch(Kind(), samples=1, channels=64, pixels=720 * 1280, fewest=True)
    assert (cut.splits, cut.merges) == (MERGE_LIMIT, True)
    layer = norm_launch(Kind("layer"), samples=1, channels=64, pixels=720 * 1280, fewest=True)
    assert not layer.merges


def test_the_slab_and_the_convolution_hold_their_maps() -> None:
    assert [slab_tile(pixels) for pixels in (1, 256, 257, 1024, SLAB_PIXELS)] == [256, 256, 512, 1024, 4096]
    assert [convolution_splits(pixels) for pixels in (4, 128, 129, 4096, 16384)] == [1, 1, 2, 32, 128]
