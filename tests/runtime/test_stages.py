"""What is done to every frame of a live job: overlay, figures, hold and blend."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from i2i_runtime.frame import Frame, Image
from i2i_runtime.live_stats import LiveMeter
from i2i_runtime.stages.overlay import Hud, draw_line
from i2i_runtime.stages.temporal import Steadier, hold, warping_error


def frame_of(pixels: Image, index: int = 0, age_s: float = 0.0) -> Frame:
    captured_s = time.monotonic() - age_s
    return Frame(pixels, index, index, Fraction(1, 25), captured_s)


@pytest.fixture(scope="module")
def texture() -> Image:
    rng = np.random.default_rng(7)
    blurred = cv2.GaussianBlur(rng.integers(0, 256, (300, 420, 3), dtype=np.uint8), (0, 0), 3)
    return np.asarray(blurred * 3 // 2, np.uint8)


def pan(texture: Image, step: int, count: int) -> list[Image]:
    """A camera that moves over the texture by `step` pixels a frame."""
    return [np.ascontiguousarray(texture[40:220, 10 + step * i : 330 + step * i]) for i in range(count)]


def flickering(clip: list[Image], rng: np.random.Generator) -> list[Image]:
    """What an engine that looks at each frame alone makes of it: tones that change from frame to frame."""
    shown = []
    for image in clip:
        gain = cv2.resize(rng.uniform(0.75, 1.25, (6, 8, 3)), (image.shape[1], image.shape[0]))
        shown.append(np.clip(np.rint(255 - image * gain), 0, 255).astype(np.uint8))
    return shown


def steadied(sources: list[Image], shown: list[Image], stage: Steadier) -> list[Image]:
    pairs = enumerate(zip(sources, shown, strict=True))
    return [stage.process(frame_of(after, i), frame_of(before, i)).pixels for i, (before, after) in pairs]


@pytest.mark.parametrize("step", [0, 2])
def test_flicker_falls_by_more_than_a_third(texture: Image, step: int) -> None:
    sources = pan(texture, step, 12)
    shown = flickering(sources, np.random.default_rng(1))
    before = warping_error(zip(sources, shown, strict=True))
    after = warping_error(zip(sources, steadied(sources, shown, Steadier()), strict=True))
    assert before.pairs == after.pairs == 11
    assert after.rms_255 < 0.7 * before.rms_255
    assert after.mse < 0.5 * before.mse


def test_a_cut_leaves_no_ghost(texture: Image) -> None:
    sources = [*pan(texture, 0, 4), *(255 - image[::-1, ::-1] for image in pan(texture, 0, 4))]
    stage = Steadier(0.9)
    after = steadied(sources, sources, stage)
    assert stage.cuts == 1
    assert np.array_equal(after[4], sources[4])
    assert warping_error(zip(sources, sources, strict=True)).cuts == 1


def test_what_is_uncovered_is_not_blended(texture: Image) -> None:
    """A bright box jumps: neither where it was nor where it is may the other image shine through."""

    def with_box(left: int) -> Image:
        image = pan(texture, 0, 1)[0] // 2
        image[60:140, left : left + 80] = 250
        return image

    sources = [with_box(20), with_box(20), with_box(200)]
    after = steadied(sources, sources, Steadier(0.9))[2]
    assert np.abs(after[80:120, 230:250].astype(int) - 250).max() <= 2
    assert np.abs(after[80:120, 50:70].astype(int) - sources[2][80:120, 50:70]).mean() < 6


def test_steady_images_stay_exactly_as_they_are(texture: Image) -> None:
    sources = pan(texture, 0, 5)
    assert np.array_equal(steadied(sources, sources, Steadier())[-1], sources[-1])


def test_later_stages_may_draw_without_leaving_traces(texture: Image) -> None:
    stage, image = Steadier(), pan(texture, 0, 1)[0]
    for index in range(4):
        out = stage.process(frame_of(image.copy(), index), frame_of(image, index))
        assert np.array_equal(out.pixels, image)
        out.pixels[:] = 0


def test_a_new_size_starts_anew(texture: Image) -> None:
    stage = Steadier()
    for height, width in ((180, 320), (100, 100), (16, 16), (1, 1), (180, 320)):
        image = np.ascontiguousarray(texture[:height, :width])
        assert np.array_equal(stage.process(frame_of(image), frame_of(image)).pixels, image)


def test_hold_stops_grain_and_lets_motion_through() -> None:
    rng = np.random.default_rng(3)
    scene = np.full((90, 120, 3), 100, np.uint8)
    held = scene
    for _ in range(5):
        grainy = np.clip(scene + rng.normal(0, 3, scene.shape), 0, 255).astype(np.uint8)
        held = hold(held, grainy, 6)
        assert np.array_equal(held, scene)
    moved = scene.copy()
    moved[30:60, 30:60] = 180
    held = hold(held, moved, 6)
    assert np.array_equal(held[31:59, 31:59], moved[31:59, 31:59])
    dimmed = np.full_like(scene, 80)
    assert np.array_equal(hold(held, dimmed, 6), dimmed)


def test_the_line_touches_its_strip_alone() -> None:
    for height, width in ((360, 640), (720, 1280), (1080, 1920), (41, 30), (39, 200)):
        image = np.full((height, width, 3), 200, np.uint8)
        drawn = draw_line(image, "age 120 ms   24.9 fps   3 dropped   engine 31.0 ms")
        assert (image == 200).all(), "the given image stays"
        changed = np.flatnonzero((drawn != image).any(axis=(1, 2)))
        if height < 40:
            assert changed.size == 0
        else:
            assert changed.min() > height * 0.6
            assert drawn[changed.min() :].max() > 200, "white letters"


def test_figures_count_new_frames_and_not_cards() -> None:
    figures, image = LiveMeter(), np.zeros((40, 40, 3), np.uint8)
    for index in (0, 1, 4, 5):
        source = frame_of(image, index, age_s=0.25)
        figures.observe(replace(source, engine_ms=7.0), source)
    assert (figures.latest.frames, figures.latest.dropped) == (4, 2)
    assert figures.latest.engine_ms == 7.0
    assert figures.latest.age_ms >= 250
    assert figures.latest.fps > 0
    card = replace(frame_of(image, 6), no_signal="cable")
    assert figures.observe(card, card).no_signal == "cable"
    assert figures.latest.frames == 4


def test_repeats_are_no_new_frames() -> None:
    figures, source = LiveMeter(), frame_of(np.zeros((40, 40, 3), np.uint8), 3)
    for _ in range(5):
        figures.observe(source, source)
    assert figures.latest.fps == 0.0


def test_the_overlay_shows_the_missing_signal() -> None:
    image = np.full((360, 640, 3), 200, np.uint8)
    card = replace(frame_of(image), no_signal="cable")
    assert not np.array_equal(
        Hud().process(card, card).pixels, Hud().process(frame_of(image), frame_of(image)).pixels
    )
