"""A street by day, seen from a car that drives along it: the scene of `test://street`.

A pinhole camera 1.4 m above the right lane moves forward along z; x points right, y up, all in metres. Houses, trees,
lamps and cars stand in slots along the road and are drawn from far to near, each paler the further it is away. The
ground is one noise texture looked up in perspective. Every frame depends on its index alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.frame import Image

_EYE_M = 1.4
_FAR_M = 130.0
_NEAR_M = 0.8
_LEFT_KERB_M, _RIGHT_KERB_M = -5.4, 2.6
_GRAIN_PER_M = 40 / 3
# One frame moves the ground by whole grains, so that the texture is rolled and its perspective computed once.
_STEP_M = 6 / _GRAIN_PER_M
_HAZE = np.array([203, 216, 228], np.float64)
_SUBPIXEL = 4
_WALLS = ((182, 150, 120), (201, 184, 158), (168, 112, 92), (150, 158, 166), (214, 204, 186), (140, 120, 108))
_ROOFS = ((118, 66, 52), (92, 84, 82), (130, 78, 58))
_CARS = ((176, 32, 36), (38, 66, 128), (210, 212, 214), (40, 42, 46), (96, 112, 104), (222, 190, 90))

_Colour = tuple[float, float, float]
_Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Thing:
    """Something that stands on the street, drawn in the order of its parts; z counts from the thing's own front.

    `quads` is `[N, 4, 3]` metres, `quad_colours` `[N, 3]`; `discs` `[M, 4]` x, y, z, radius and `disc_colours`
    `[M, 3]`. `shadow` is x, z and reach of what it throws on the ground.
    """

    quads: NDArray[np.float64]
    quad_colours: NDArray[np.float64]
    discs: NDArray[np.float64]
    disc_colours: NDArray[np.float64]
    shadow: tuple[float, float, float] | None = None


class Street:
    """Draws the scene at one size; `draw` gives `[H, W, 3] uint8 RGB`."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._focal = 0.8 * max(width, height * 1.2)
        self._horizon = height * 0.46
        self._sky = _sky(width, height, int(self._horizon))
        self._map_ground()

    def draw(self, index: int) -> Image:
        at_m = index * _STEP_M
        image = self._sky.copy()
        self._draw_ground(image, index)
        things = self._things(index, at_m)
        for z, thing in things:
            if thing.shadow is not None:
                self._draw_shadow(image, thing.shadow, z)
        for z, thing in things:
            self._draw_thing(image, thing, z)
        return image

    def _things(self, index: int, at_m: float) -> list[tuple[float, Thing]]:
        """All that stands in sight and its distance, the farthest first."""
        seen: list[tuple[float, Thing]] = []
        for build, spacing_m in ((_house, 11.0), (_tree, 9.0), (_lamp, 27.0), (_parked, 15.0)):
            first = math.floor(at_m / spacing_m) - 1
            slots = range(first, first + int(_FAR_M / spacing_m) + 1)
            seen += [(slot * spacing_m - at_m, build(slot, side)) for slot in slots for side in (-1, 1)]
        # Oncoming cars: they drive towards us as fast as we drive towards them.
        seen += [((k * 41.0 - at_m * 2) % 164.0 - 8, _car(-3.1, k + 1, False)) for k in range(4)]
        lead = _car(round(0.2 + 0.15 * math.sin(index / 40), 2), 0, True)
        seen.append((15.0 + 3.0 * math.sin(index / 60), lead))
        return sorted(seen, key=lambda entry: -entry[0])

    def _map_ground(self) -> None:
        """For each pixel under the horizon: where on the ground it looks, and the ground's colour there."""
        noise = np.random.default_rng(3).normal(0, 1, (1024, 1024))
        # Blurred around the edge, so that the texture repeats without a seam.
        blurred = cv2.GaussianBlur(np.pad(noise, 8, mode="wrap"), (0, 0), 1.1)[8:-8, 8:-8]
        self._grain = np.clip(blurred * 32 + 128, 0, 255).astype(np.uint8)
        self._ground_top = int(self._horizon) + 1
        rows = np.arange(self._ground_top, self._height)[:, None]
        z = self._focal * _EYE_M / (rows + 0.5 - self._horizon)
        x = (np.arange(self._width)[None] - self._width / 2) * z / self._focal
        z = np.broadcast_to(z, x.shape)
        self._map, self._map_fraction = cv2.convertMaps(
            ((x * 40) % 1024).astype(np.float32), ((z * _GRAIN_PER_M) % 1024).astype(np.float32), cv2.CV_16SC2
        )
        base = np.empty((*x.shape, 3))
        base[:] = (106, 128, 74)
        base[(x > _LEFT_KERB_M - 2.6) & (x < _RIGHT_KERB_M + 2.6)] = (158, 154, 148)
        base[(x > _LEFT_KERB_M - 0.2) & (x < _RIGHT_KERB_M + 0.2)] = (188, 186, 180)
        base[(x > _LEFT_KERB_M) & (x < _RIGHT_KERB_M)] = (98, 99, 102)
        edge = (np.abs(x - _LEFT_KERB_M - 0.35) < 0.07) | (np.abs(x - _RIGHT_KERB_M + 0.35) < 0.07)
        base[edge] = (214, 214, 208)
        haze = np.clip(z / _FAR_M, 0, 1)[..., None] ** 0.8
        self._ground = (base * (1 - haze) + _HAZE * haze).astype(np.int16)
        # Grain fades with distance, where it would flicker.
        self._grain_gain = (np.clip(1.2 - z / 30, 0, 1) * 64).astype(np.int16)
        self._lane = np.nonzero(np.abs(x - (_LEFT_KERB_M + _RIGHT_KERB_M) / 2) < 0.08)
        self._lane_z = z[self._lane]
        fade = np.clip(self._lane_z / 90, 0, 1)[:, None]
        self._lane_colours = (np.array([228, 226, 216]) * (1 - fade) + _HAZE * fade).astype(np.uint8)

    def _draw_ground(self, image: Image, index: int) -> None:
        rolled = np.roll(self._grain, -6 * index, axis=0)
        grain = cv2.remap(rolled, self._map, self._map_fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        tone = ((grain.astype(np.int16) - 128) * self._grain_gain) >> 6
        ground = image[self._ground_top :]
        ground[:] = cv2.add(self._ground, cv2.merge([tone, tone, tone]), dtype=cv2.CV_8U)
        dash = (self._lane_z + index * _STEP_M) % 9.0 < 3.6
        ground[self._lane[0][dash], self._lane[1][dash]] = self._lane_colours[dash]

    def _draw_shadow(self, image: Image, shadow: tuple[float, float, float], z: float) -> None:
        x, ahead_m, reach_m = shadow
        z += ahead_m
        if z < 2.5 or z > 60:
            return
        centre = self._project(np.array([[x, 0.0, z]]))[0]
        across = max(1, int(reach_m * self._focal / z))
        along = max(1, int(0.5 * self._focal * _EYE_M * reach_m / z**2))
        left, top = max(int(centre[0]) - across, 0), max(int(centre[1]) - along, 0)
        patch = image[top : max(int(centre[1]) + along, 0), left : max(int(centre[0]) + across, 0)]
        if patch.size == 0:
            return
        mask = np.zeros(patch.shape[:2], np.uint8)
        cv2.ellipse(mask, (int(centre[0]) - left, int(centre[1]) - top), (across, along), 0, 0, 360, 1, -1)
        patch[mask > 0] = (patch[mask > 0] * 0.62).astype(np.uint8)

    def _draw_thing(self, image: Image, thing: Thing, z: float) -> None:
        if len(thing.quads):
            corners = thing.quads + np.array([0.0, 0.0, z])
            depths = corners[:, :, 2]
            colours = _hazed(thing.quad_colours, depths.mean(axis=1)).tolist()
            whole = depths.min(axis=1) >= _NEAR_M
            pixels = self._fixed_point(np.maximum(corners, (-np.inf, -np.inf, _NEAR_M)).reshape(-1, 3))
            for number in np.nonzero(depths.max(axis=1) > _NEAR_M)[0]:
                points = pixels[4 * number : 4 * number + 4]
                if not whole[number]:
                    points = self._fixed_point(_clip_near(corners[number]))
                cv2.fillConvexPoly(image, points, colours[number], cv2.LINE_AA, _SUBPIXEL)
        if len(thing.discs) and z > _NEAR_M:
            centres = self._fixed_point(thing.discs[:, :3] + np.array([0.0, 0.0, z])).tolist()
            radii = (thing.discs[:, 3] * self._focal / z * 2**_SUBPIXEL).round().astype(int).tolist()
            colours = _hazed(thing.disc_colours, np.full(len(radii), z)).tolist()
            for centre, radius, colour in zip(centres, radii, colours, strict=True):
                cv2.circle(image, centre, radius, colour, -1, cv2.LINE_AA, _SUBPIXEL)

    def _fixed_point(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        pixels = np.clip(self._project(points), -8000, 16000) * 2**_SUBPIXEL
        return np.asarray(pixels.round(), np.int32)

    def _project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[N, 3]` metres to `[N, 2]` pixels."""
        scale = self._focal / points[:, 2]
        across = self._width / 2 + points[:, 0] * scale
        return np.stack([across, self._horizon - (points[:, 1] - _EYE_M) * scale], axis=1)


class _Builder:
    """Collects the parts of one thing."""

    def __init__(self) -> None:
        self._quads: list[tuple[list[_Corner], _Colour]] = []
        self._discs: list[tuple[float, float, float, float, _Colour]] = []

    def quad(self, corners: list[_Corner], colour: _Colour, light: float = 1.0) -> None:
        self._quads.append((corners, _shade(colour, light)))

    def facing(self, x0: float, x1: float, y0: float, y1: float, z: float, colour: _Colour) -> None:
        """A rectangle that faces the camera."""
        self.quad([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour)

    def along(
        self, x: float, y0: float, y1: float, z0: float, z1: float, colour: _Colour, light: float = 1.0
    ) -> None:
        """A rectangle in a wall that runs along the street."""
        self.quad([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], colour, light)

    def disc(self, x: float, y: float, z: float, radius: float, colour: _Colour) -> None:
        self._discs.append((x, y, z, radius, colour))

    def build(self, shadow: tuple[float, float, float] | None = None) -> Thing:
        return Thing(
            np.array([corners for corners, _ in self._quads], np.float64).reshape(-1, 4, 3),
            np.array([colour for _, colour in self._quads], np.float64).reshape(-1, 3),
            np.array([disc[:4] for disc in self._discs], np.float64).reshape(-1, 4),
            np.array([disc[4] for disc in self._discs], np.float64).reshape(-1, 3),
            shadow,
        )


@lru_cache(maxsize=256)
def _house(slot: int, side: int) -> Thing:
    dice = np.random.default_rng((slot + 1000, side + 1, 1))
    parts = _Builder()
    if dice.random() < 0.12:
        return parts.build()
    depth_m = dice.uniform(7.5, 10.6)
    floors = int(dice.integers(2, 5))
    eaves_m = 3.0 * floors + 0.6
    face = (_LEFT_KERB_M - dice.uniform(3.4, 5.0)) if side < 0 else (_RIGHT_KERB_M + dice.uniform(3.4, 5.0))
    back, ridge, top = face + side * 9, face + side * 3.5, eaves_m + dice.uniform(1.2, 2.6)
    wall = _WALLS[int(dice.integers(len(_WALLS)))]
    roof = _ROOFS[int(dice.integers(len(_ROOFS)))]
    light = 1.06 if side < 0 else 0.84
    parts.facing(face, back, 0, eaves_m, 0, _shade(wall, 0.78))
    parts.along(face, 0, eaves_m, 0, depth_m, wall, light)
    parts.quad(
        [(face, eaves_m, 0), (face, eaves_m, depth_m), (ridge, top, depth_m), (ridge, top, 0)], roof, light
    )
    parts.quad([(face, eaves_m, 0), (ridge, top, 0), (back, eaves_m, 0), (back, eaves_m, 0)], wall, 0.72)
    windows = int(depth_m / 2.2)
    out = face - side * 0.02
    for floor in range(floors):
        for window in range(windows):
            door = floor == 0 and window == windows // 2
            low = 0.1 if door else 0.9 + 3.0 * floor
            high = 2.4 + 3.0 * floor
            begin = (window + 0.28) * depth_m / windows
            end = begin + 0.46 * depth_m / windows
            glass = (88.0, 62.0, 46.0) if door else (74.0 + 20 * ((slot + window) % 3), 96.0, 116.0)
            parts.along(out, low - 0.08, high + 0.08, begin - 0.1, end + 0.1, (224, 220, 212), light)
            parts.along(out, low, high, begin, end, glass, light)
    return parts.build()


@lru_cache(maxsize=256)
def _tree(slot: int, side: int) -> Thing:
    dice = np.random.default_rng((slot + 1000, side + 1, 2))
    parts = _Builder()
    if dice.random() < 0.35:
        return parts.build()
    x = (_LEFT_KERB_M - 1.3) if side < 0 else (_RIGHT_KERB_M + 1.3)
    parts.quad([(x - 0.13, 0, 0), (x + 0.13, 0, 0), (x + 0.09, 2.8, 0), (x - 0.09, 2.8, 0)], (92, 72, 54))
    crown_m = dice.uniform(3.4, 4.4)
    tone = dice.uniform(0.85, 1.15)
    for leaf in range(60):
        turn, spread = dice.uniform(0, 2 * math.pi), 1.4 * math.sqrt(dice.random())
        leaf_x, leaf_y = x + spread * math.cos(turn), crown_m + 0.9 * spread * math.sin(turn)
        light = tone * (0.66 + 0.16 * (leaf_y - crown_m + 1.2) - 0.08 * (leaf_x - x)) + 0.003 * leaf
        parts.disc(
            leaf_x,
            leaf_y,
            0,
            dice.uniform(0.16, 0.52),
            _shade((84, 124, 52), light + dice.uniform(-0.08, 0.08)),
        )
    return parts.build((x + 0.7, 0, 1.9))


@lru_cache(maxsize=64)
def _lamp(slot: int, side: int) -> Thing:
    parts = _Builder()
    x = (_LEFT_KERB_M - 0.5) if side < 0 else (_RIGHT_KERB_M + 0.5)
    steel = (84.0, 88.0, 92.0)
    arm = x - side * 1.5
    parts.quad([(x - 0.06, 0, 0), (x + 0.06, 0, 0), (x + 0.04, 6.2, 0), (x - 0.04, 6.2, 0)], steel)
    parts.quad([(x, 6.1, 0), (arm, 6.3, 0), (arm, 6.38, 0), (x, 6.22, 0)], steel)
    parts.facing(arm - side * 0.6, arm, 6.24, 6.4, 0, (220, 218, 204))
    return parts.build()


@lru_cache(maxsize=256)
def _parked(slot: int, side: int) -> Thing:
    dice = np.random.default_rng((slot + 1000, side + 1, 3))
    if dice.random() < 0.45:
        return _Builder().build()
    # On our side half on the pavement, clear of our lane.
    x = (_LEFT_KERB_M + 0.95) if side < 0 else (_RIGHT_KERB_M + 0.45)
    return _car(x, int(dice.integers(len(_CARS))), side > 0)


@lru_cache(maxsize=256)
def _car(x: float, paint_number: int, ahead: bool) -> Thing:
    """A car at x; `ahead` shows its back, else its front."""
    paint = _CARS[paint_number]
    parts = _Builder()
    half, length = 0.86, 4.2
    inner = x + half if x < 0 else x - half
    inwards = math.copysign(1.0, inner - x)
    black, tyre = (20.0, 20.0, 22.0), (26.0, 26.0, 28.0)
    for wing in (-1, 1):
        wheel_x = x + wing * (half - 0.13)
        parts.facing(wheel_x - 0.12, wheel_x + 0.12, 0, 0.5, 0.4, tyre)
    parts.facing(x - half + 0.1, x + half - 0.1, 0.14, 0.34, 0.1, black)
    parts.along(inner - inwards * 0.1, 0.14, 0.34, 0.1, length - 0.1, black)
    parts.quad(
        [(x - half, 0.86, 0), (x + half, 0.86, 0), (x + half, 0.86, length), (x - half, 0.86, length)],
        paint,
        1.08,
    )
    parts.along(inner, 0.28, 0.86, 0, length, paint, 0.74)
    for axle in (0.5, 3.0):
        for lift, reach in ((0.0, 0.34), (0.1, 0.44), (0.24, 0.34)):
            middle = axle + 0.35
            parts.along(
                inner + inwards * 0.01, lift, lift + 0.36, middle - reach * 0.8, middle + reach * 0.8, tyre
            )
    parts.facing(x - half, x + half, 0.28, 0.86, 0, _shade(paint, 0.95))
    glass = (58.0, 70.0, 82.0)
    cabin, roof_y = half - 0.12, 1.42
    edge = inner - inwards * 0.12
    parts.quad(
        [
            (edge, 0.86, 0.5),
            (edge, 0.86, 3.4),
            (edge - inwards * 0.1, roof_y, 2.9),
            (edge - inwards * 0.1, roof_y, 0.9),
        ],
        paint,
        0.7,
    )
    parts.quad(
        [
            (edge, 0.92, 0.75),
            (edge, 0.92, 3.0),
            (edge - inwards * 0.08, 1.34, 2.7),
            (edge - inwards * 0.08, 1.34, 1.0),
        ],
        glass,
        0.8,
    )
    parts.quad(
        [
            (x - cabin, 0.86, 0.4),
            (x + cabin, 0.86, 0.4),
            (x + cabin - 0.1, roof_y, 0.8),
            (x - cabin + 0.1, roof_y, 0.8),
        ],
        paint,
        0.9,
    )
    parts.quad(
        [
            (x - cabin + 0.1, 0.92, 0.42),
            (x + cabin - 0.1, 0.92, 0.42),
            (x + cabin - 0.2, 1.35, 0.74),
            (x - cabin + 0.2, 1.35, 0.74),
        ],
        glass,
    )
    lamps = (178.0, 24.0, 22.0) if ahead else (246.0, 244.0, 226.0)
    for wing in (-1, 1):
        lamp_x = x + wing * (half - 0.2)
        parts.facing(lamp_x - 0.15, lamp_x + 0.15, 0.58, 0.76, 0, lamps)
    parts.facing(x - 0.26, x + 0.26, 0.42, 0.55, 0, (232, 232, 226))
    return parts.build((x, 1.2, 1.2))


def _clip_near(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a convex polygon that is in front of the camera (Sutherland and Hodgman, 1974)."""
    kept: list[NDArray[np.float64]] = []
    for here, there in zip(points, np.roll(points, -1, axis=0), strict=True):
        if here[2] >= _NEAR_M:
            kept.append(here)
        if (here[2] >= _NEAR_M) != (there[2] >= _NEAR_M):
            kept.append(here + (there - here) * (_NEAR_M - here[2]) / (there[2] - here[2]))
    return np.array(kept).reshape(-1, 3)


def _shade(colour: _Colour, light: float) -> _Colour:
    return colour[0] * light, colour[1] * light, colour[2] * light


def _hazed(colours: NDArray[np.float64], depths_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[N, 3]` colours as they look through `[N]` metres of air."""
    haze = (np.clip(depths_m / _FAR_M, 0, 1) ** 0.8)[:, None]
    return np.clip(colours * (1 - haze) + _HAZE * haze, 0, 255)


def _sky(width: int, height: int, horizon: int) -> Image:
    """A blue sky with soft clouds, haze at the horizon and a line of far hills."""
    ramp = np.linspace(0, 1, max(horizon, 1))[:, None, None] ** 1.3
    sky = (1 - ramp) * np.array([92, 148, 208]) + ramp * np.array([206, 222, 234])
    sky = np.repeat(sky, width, axis=1).astype(np.float32)
    dice = np.random.default_rng(11)
    clouds = np.zeros(sky.shape[:2], np.float32)
    for octave in range(1, 6):
        noise = dice.random((2**octave + 1, 3 * 2**octave)).astype(np.float32)
        clouds += cv2.resize(noise, (width, max(horizon, 1)), interpolation=cv2.INTER_CUBIC) / 2**octave
    cover = np.clip((clouds - 0.52) * 2.4, 0, 1)[..., None] * (1 - 0.6 * ramp.astype(np.float32))
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (106, 128, 74)
    image[: sky.shape[0]] = np.clip(sky * (1 - cover) + 248 * cover, 0, 255)
    across = np.arange(width)
    for lift, tone, waves in ((0.055, (168, 188, 196), 5.0), (0.03, (140, 164, 152), 9.0)):
        swell = np.sin(across / width * waves) + 0.5 * np.sin(across / width * waves * 2.3 + 1)
        crest = horizon - height * lift * (0.7 + 0.3 * swell)
        outline = np.concatenate([np.stack([across, crest], 1), [[width, horizon + 2], [0, horizon + 2]]])
        cv2.fillPoly(image, [outline.round().astype(np.int32)], tone)
    return image
