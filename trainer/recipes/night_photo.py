"""Renders a photograph by day as the same place at night, at any of the darknesses between dusk and deep night.

The light of the day is taken away and that of a night put in its place, in linear light:

* the sky is painted anew, dark at the zenith and paler above the roofs, and keeps a part of its clouds;
* everything else is lit by a weak, bluish sky: sunlight and shadow come closer together, colours fade;
* what gives or reflects light at night is lit: small bright spots (lamps, headlights, lane marks, signs), dark
  windows in bright walls, small red things, the road before the car; they bloom and shed light on what is around them.

Nothing in it is random, and the same thing looks the same wherever it stands, so that a network can learn it and a
clip stays still. Levels and tints were set by the real nights of the training cameras (night_measures.py --real).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from sky import Floats, letterbox, sky_of

from i2i_trainer.images import Pixels

GAMMA = 2.2
LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)
WARM = np.asarray([1.0, 0.66, 0.33], np.float32)
"""Lamps and windows: about 2,900 kelvin."""
RED = np.asarray([1.0, 0.10, 0.06], np.float32)
COOL = np.asarray([0.84, 0.96, 1.18], np.float32)
"""Tint of what only the sky lights."""
HEADLIGHT = np.asarray([1.0, 0.93, 0.78], np.float32)
BEAM = 0.16
"""Light of the own headlights where they are brightest, as a share of the day's."""


@dataclass(frozen=True)
class Darkness:
    """How dark it is: the values between two of these are mixed."""

    ambient: float
    """Share of the day's light that is left outside the sky."""
    fade: float
    """Share of the colour that is lost."""
    zenith: tuple[float, float, float]
    """Levels of the sky far above the horizon, R, G, B of 255."""
    horizon: tuple[float, float, float]
    """Levels of the sky above the horizon."""
    lamps: float
    """Strength of everything that gives light."""


DUSK = Darkness(0.26, 0.15, (38, 54, 88), (108, 98, 106), 1.5)
NIGHT = Darkness(0.115, 0.35, (7, 9, 14), (22, 21, 23), 3.8)
DEEP = Darkness(0.05, 0.50, (4, 5, 8), (11, 11, 13), 2.6)
STEPS = {"dusk": DUSK, "night": NIGHT, "deep": DEEP}


@dataclass(frozen=True)
class Place:
    """What a photograph by day tells of a place, whatever the hour: layers `[H, W]` or `[H, W, 3]`, float32."""

    light: Floats
    """Linear light of the day in [0, 1], sunlight and shadow brought closer together."""
    sky: Floats
    height: Floats
    """Of the sky above the horizon: 0 there, 1 from a third of the image on."""
    clouds: Floats
    """Light of the sky over its smooth part, 1 if it is clear."""
    lamps: Floats
    """Light that is given or thrown back, linear, with its colour."""
    beam: Floats
    """Light that headlights throw on a road ahead, in [0, 1]."""
    bars: Floats
    """1 on the black bars of a letterboxed film."""


def place_of_day(image: Pixels) -> Place:
    """Reads the layers off `[H, W, 3] uint8 RGB`."""
    sky = sky_of(image)
    linear = (image.astype(np.float32) / 255) ** GAMMA
    return Place(
        light=_evened(linear, sky),
        sky=sky,
        height=_height(sky),
        clouds=_clouds(linear, sky),
        lamps=_lamps(image, linear, sky),
        beam=_beam(image, sky),
        bars=letterbox(image).astype(np.float32),
    )


def night_of(place: Place, darkness: float) -> Pixels:
    """The place at night, `[H, W, 3] uint8 RGB`; `darkness` is 0 at dusk, 0.5 by night and 1 in the deep of it."""
    now = between(darkness)
    side = min(place.sky.shape)
    grey = place.light @ LUMA
    faded = (1 - now.fade) * place.light + now.fade * grey[..., None]
    given = now.lamps * place.lamps
    around = _spread(given, side / 10)
    # What a lamp lights has its own colour back.
    ground = now.ambient * faded * COOL + 1.6 * place.light * around
    ground += BEAM * now.lamps * place.light * place.beam[..., None] * HEADLIGHT
    ground += given + 0.30 * _spread(given, side / 110) + 0.12 * _spread(given, side / 40)
    rise = place.height[..., None]
    zenith, horizon = (_linear(np.asarray(levels)) for levels in (now.zenith, now.horizon))
    heaven = (horizon + (zenith - horizon) * rise) * place.clouds[..., None] + 0.03 * _spread(
        given, side / 40
    )
    mixed = ground + (heaven - ground) * place.sky[..., None]
    mixed *= 1 - place.bars[..., None]
    return np.round(255 * np.clip(_shoulder(mixed), 0, 1) ** (1 / GAMMA)).astype(np.uint8)


def darkness_of(style: str) -> float:
    """The darkness that a style names: dusk, night, deep, or a number in [0, 1]."""
    names = list(STEPS)
    return names.index(style) / (len(names) - 1) if style in names else float(style)


def between(darkness: float) -> Darkness:
    """The values at a darkness in [0, 1], on a line between the two nearest."""
    at = min(max(darkness, 0.0), 1.0) * (len(STEPS) - 1)
    first = min(int(at), len(STEPS) - 2)
    share, (one, other) = at - first, list(STEPS.values())[first : first + 2]

    def mix(a: float, b: float) -> float:
        return a + (b - a) * share

    def mix_colour(
        a: tuple[float, float, float], b: tuple[float, float, float]
    ) -> tuple[float, float, float]:
        return mix(a[0], b[0]), mix(a[1], b[1]), mix(a[2], b[2])

    return Darkness(
        ambient=mix(one.ambient, other.ambient),
        fade=mix(one.fade, other.fade),
        zenith=mix_colour(one.zenith, other.zenith),
        horizon=mix_colour(one.horizon, other.horizon),
        lamps=mix(one.lamps, other.lamps),
    )


def _linear(levels: Floats) -> Floats:
    return np.asarray((levels / 255) ** GAMMA, np.float32)


def _shoulder(light: Floats) -> Floats:
    """Bends light above 0.5 towards 1, so that lamps keep their colour."""
    return np.asarray(np.where(light < 0.5, light, 1 - 0.25 / np.maximum(light, 0.5)), np.float32)


def _spread(light: Floats, sigma: float) -> Floats:
    """Light blurred over `sigma` pixels; computed at a fraction of the size if that is wide."""
    factor = max(1, int(sigma / 4))
    height, width = light.shape[:2]
    small = cv2.resize(
        light, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA
    )
    soft = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _evened(linear: Floats, sky: Floats) -> Floats:
    """The light outside the sky with the difference of sunlight and shadow reduced by a quarter."""
    grey = linear @ LUMA + 1e-3
    side = min(sky.shape)
    weight = 1 - sky + 1e-3
    base = _spread(np.log(grey) * weight, side / 30) / _spread(weight, side / 30)
    lift = np.exp(-0.25 * (base - np.log(0.16)))
    return np.clip(linear * np.clip(lift, 0.5, 2.2)[..., None], 0, 1.2).astype(np.float32)


def _height(sky: Floats) -> Floats:
    """How far above the lowest sky of its column, and of those around, each pixel is, in thirds of the image."""
    rows, columns = sky.shape
    inside = sky > 0.5
    below = np.arange(rows)[:, None] * inside
    lowest = below.max(axis=0).astype(np.float32)
    filled = lowest if (lowest > 0).any() else np.full(columns, rows / 2, np.float32)
    width = max(3, columns // 6) | 1
    padded = np.pad(filled, width // 2, mode="edge")
    horizon = np.convolve(padded, np.ones(width) / width, mode="valid")
    rise = (horizon[None, :] - np.arange(rows)[:, None]) / (rows / 3)
    return np.clip(rise, 0, 1).astype(np.float32)


def _beam(image: Pixels, sky: Floats) -> Floats:
    """Grey and smooth ground below the middle of the image, brightest two thirds of the way to the bottom."""
    rows, columns = sky.shape
    side = min(rows, columns)
    values = image.astype(np.float32)
    grey = values.mean(axis=2)
    plain = 1 - _excess(values.max(axis=2) - values.min(axis=2), 18, 45)
    smooth = 1 - _excess(_texture(np.asarray(grey / 255, np.float32))[1], 0.02, 0.06)
    road = _spread(np.asarray(plain * smooth * (sky < 0.1), np.float32), side / 40)
    down, across = np.mgrid[0:rows, 0:columns].astype(np.float32)
    down, across = down / rows, (across - columns / 2) / rows
    reach = np.exp(
        -(((down - 0.80) / 0.17) ** 2) - (across / (0.15 + 0.75 * np.maximum(down - 0.5, 0))) ** 2 / 2
    )
    return np.asarray(road * reach * (down > 0.45), np.float32)


def _clouds(linear: Floats, sky: Floats) -> Floats:
    """Half of the contrast that clouds have with the sky around them."""
    grey = linear @ LUMA + 1e-3
    weight = sky + 1e-3
    base = _spread(np.log(grey) * weight, min(sky.shape) / 4) / _spread(weight, min(sky.shape) / 4)
    return np.exp(0.5 * np.clip(np.log(grey) - base, -1.0, 0.8)).astype(np.float32)


def _lamps(image: Pixels, linear: Floats, sky: Floats) -> Floats:
    """What gives light at night, or throws it back: spots, windows and red things, linear."""
    side = min(sky.shape)
    grey = np.asarray((linear @ LUMA) ** (1 / GAMMA), np.float32)
    soft = np.asarray(cv2.GaussianBlur(grey, (0, 0), side / 500 + 0.3), np.float32)
    ground = 1 - np.clip(_spread(sky, side / 90) * 3, 0, 1)
    upright, rough = _texture(grey)
    red, green, blue = (image[..., i].astype(np.float32) for i in range(3))
    leafy = np.clip(_spread(np.asarray(green - 0.5 * (red + blue) > 4, np.float32), side / 60) * 2, 0, 1)
    leafy = np.maximum(leafy, _excess(rough, 0.05, 0.10) * (1 - _excess(upright, 0.05, 0.25)))

    spots = _excess(cv2.morphologyEx(soft, cv2.MORPH_TOPHAT, _disc(side / 22)), 0.12, 0.35)
    spots = spots * _excess(soft, 0.45, 0.75) * ground * (1 - leafy)
    hue = linear / (linear.max(axis=2, keepdims=True) + 1e-3)
    vivid = np.clip((1 - linear.min(axis=2) / (linear.max(axis=2) + 0.02)) * 1.5 - 0.3, 0, 1)[..., None]
    tint = vivid * hue + (1 - vivid) * (0.5 * hue + 0.5 * WARM)

    roofed = soft * (sky < 0.1)  # a wall is not as bright as the sky beside it
    walls = _framed(roofed, side / 9)
    large = _excess(walls - soft, 0.10, 0.30) * _excess(walls, 0.35, 0.6)
    near = cv2.morphologyEx(roofed, cv2.MORPH_CLOSE, _disc(side / 70))
    small = _excess(near - soft, 0.03, 0.14) * _excess(near, 0.25, 0.5) * _excess(rough, 0.02, 0.05)
    windows = np.maximum(large, small) * _excess(upright, 0.10, 0.35) * (1 - leafy) * ground

    tail = _excess(red - np.maximum(green, blue), 80, 130) * ground
    tail = np.maximum(tail - cv2.morphologyEx(tail, cv2.MORPH_OPEN, _disc(side / 18)), 0)
    return np.asarray(
        0.45 * spots[..., None] * tint + 0.50 * windows[..., None] * WARM + 0.30 * tail[..., None] * RED,
        np.float32,
    )


def _texture(grey: Floats) -> tuple[Floats, Floats]:
    """How far edges lie along the axes (1: all, as on a front; 0: any way, as in a tree), and how dense they are."""
    right, down = (cv2.Sobel(grey, cv2.CV_32F, *axis) / 8 for axis in ((1, 0), (0, 1)))
    energy = right**2 + down**2
    four_fold = (right**4 - 6 * right**2 * down**2 + down**4) / (energy + 1e-6)
    sigma = min(grey.shape) / 40
    dense = _spread(np.asarray(energy, np.float32), sigma)
    return np.clip(_spread(np.asarray(four_fold, np.float32), sigma) / (dense + 1e-5), 0, 1), np.sqrt(dense)


def _framed(values: Floats, length: float) -> Floats:
    """Dark places filled that have something brighter within `length` on all four sides."""
    size = max(3, round(length)) | 1
    closed = [
        cv2.morphologyEx(values, cv2.MORPH_CLOSE, np.ones(shape, np.uint8))
        for shape in ((1, size), (size, 1))
    ]
    return np.minimum(closed[0], closed[1]).astype(np.float32)


def _excess(values: Floats, start: float, full: float) -> Floats:
    """0 up to `start`, 1 from `full` on."""
    return np.clip((values - start) / (full - start), 0, 1).astype(np.float32)


def _disc(diameter: float) -> cv2.typing.MatLike:
    size = max(3, round(diameter)) | 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
