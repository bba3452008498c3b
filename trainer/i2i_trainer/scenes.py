"""Street scenes by day and by night with a known truth: the same place, drawn twice.

Synthetic training data for tests and first trials: `write_scenes` makes a folder that `i2i-train` reads as it is.
A scene is a view along a street: sky, houses on both sides, trees, lamps, a road with marks, and cars.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2i_trainer.images import Pixels

Floats = NDArray[np.float32]
Colour = tuple[float, float, float]
Point = tuple[float, float]

OVERSAMPLING = 2


@dataclass(frozen=True)
class House:
    """A house front: `near` and `far` are depths in (0, 1], 1 at the viewer; height and window lights by chance."""

    side: int
    near: float
    far: float
    height: float
    wall: Colour
    lit: NDArray[np.bool_]


@dataclass(frozen=True)
class Car:
    """A car at a depth and lane; `oncoming` shows its headlights, else its tail lights."""

    depth: float
    lane: float
    paint: Colour
    oncoming: bool


@dataclass(frozen=True)
class Tree:
    """A tree beside the road: `side` -1 left, 1 right."""

    side: int
    depth: float
    height: float


@dataclass(frozen=True)
class Lamp:
    """A pair of street lamps."""

    depth: float


Thing = House | Tree | Lamp | Car


@dataclass(frozen=True)
class Scene:
    """Everything that stands in a street, apart from the light."""

    horizon: float
    vanishing: float
    sun: Point
    sky: Colour
    houses: tuple[House, ...]
    trees: tuple[Tree, ...]
    lamps: tuple[Lamp, ...]
    cars: tuple[Car, ...]
    clouds: tuple[tuple[float, float, float], ...]


def scene_from_seed(seed: int) -> Scene:
    """A street by chance; the same seed gives the same street."""
    random = np.random.default_rng(seed)
    houses = []
    for side in (-1, 1):
        near = 1.6
        while near > 0.16:
            far = near * random.uniform(0.55, 0.75)
            wall = np.array([0.62, 0.5, 0.42]) * random.uniform(0.7, 1.25) + random.uniform(-0.09, 0.09, 3)
            lit = random.random((6, 4)) < 0.45
            houses.append(House(side, near, far, random.uniform(0.5, 1.15), _colour(wall), lit))
            near = far
    lanes = ((-0.45, True), (0.45, False))
    cars = [
        Car(random.uniform(0.14, 0.6), lane, _colour(random.uniform(0.1, 0.9, 3)), oncoming)
        for lane, oncoming in lanes
        for _ in range(int(random.integers(0, 3)))
    ]
    return Scene(
        horizon=random.uniform(0.42, 0.55),
        vanishing=random.uniform(0.4, 0.6),
        sun=(random.uniform(0.2, 0.8), random.uniform(0.06, 0.2)),
        sky=_colour(np.array([0.45, 0.66, 0.95]) + random.uniform(-0.06, 0.06, 3)),
        houses=tuple(houses),
        trees=tuple(
            Tree(int(random.choice((-1, 1))), random.uniform(0.2, 0.8), random.uniform(0.5, 1.0))
            for _ in range(int(random.integers(1, 5)))
        ),
        lamps=tuple(Lamp(depth) for depth in (0.16, 0.26, 0.42, 0.7)),
        cars=tuple(cars),
        clouds=tuple(
            (random.uniform(0, 1), random.uniform(0.03, 0.3), random.uniform(0.06, 0.2))
            for _ in range(int(random.integers(0, 5)))
        ),
    )


def render(scene: Scene, size: tuple[int, int] = (128, 128), night: bool = False) -> Pixels:
    """The scene as `[H, W, 3] uint8 RGB` for `size` (H, W); by night the same things stand in the same places."""
    height, width = size
    canvas = _Canvas(scene, height * OVERSAMPLING, width * OVERSAMPLING, night)
    canvas.sky()
    canvas.ground()
    things: list[Thing] = [*scene.houses, *scene.trees, *scene.lamps, *scene.cars]
    for thing in sorted(things, key=_depth):
        canvas.add(thing)
    small = cv2.resize(canvas.lit(), (width, height), interpolation=cv2.INTER_AREA)
    pixels: Pixels = (small.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    return pixels


def _depth(thing: Thing) -> float:
    return thing.far if isinstance(thing, House) else thing.depth


def write_scenes(
    root: Path, count: int, size: tuple[int, int] = (128, 128), seed: int = 0, held_out: int = 0
) -> None:
    """Writes `trainA` (day) and `trainB` (night) of other streets, and `held_out` true pairs in `testA`, `testB`."""
    for split, number, first_day, first_night in (
        ("train", count, seed, seed + 100_000),
        ("test", held_out, seed + 200_000, seed + 200_000),
    ):
        for domain, first, night in (("A", first_day, False), ("B", first_night, True)):
            folder = root / f"{split}{domain}"
            if number:
                folder.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                Image.fromarray(render(scene_from_seed(first + i), size, night)).save(folder / f"{i:05d}.png")


class _Canvas:
    """What reflects light (`surface`) and what gives it (`glow`), drawn from the back to the front."""

    def __init__(self, scene: Scene, height: int, width: int, night: bool) -> None:
        self.scene = scene
        self.height, self.width = height, width
        self.night = night
        self.surface: Floats = np.zeros((height, width, 3), np.float32)
        self.glow: Floats = np.zeros((height, width, 3), np.float32)

    def point(self, side: float, up: float, depth: float) -> Point:
        """Pixel of a place: `side` in half road widths, `up` in houses, `depth` 1 at the viewer's feet."""
        ground = (self.scene.horizon + depth * (1 - self.scene.horizon)) * self.height
        return (
            self.scene.vanishing * self.width + side * depth * self.width * 0.55,
            ground - up * depth * self.height * 0.75,
        )

    def fill(self, points: list[Point], colour: Colour, glow: Colour = (0.0, 0.0, 0.0)) -> None:
        """A polygon that reflects `colour` and gives `glow`."""
        corners = np.array([[round(x * 8), round(y * 8)] for x, y in points], np.int32)
        cv2.fillPoly(self.surface, [corners], colour, cv2.LINE_8, shift=3)
        cv2.fillPoly(self.glow, [corners], glow, cv2.LINE_8, shift=3)

    def disc(self, centre: Point, radius: float, colour: Colour, glow: Colour = (0.0, 0.0, 0.0)) -> None:
        """A disc that reflects `colour` and gives `glow`; at least a pixel wide."""
        at = (round(centre[0]), round(centre[1]))
        cv2.circle(self.surface, at, max(1, round(radius)), colour, -1)
        cv2.circle(self.glow, at, max(1, round(radius)), glow, -1)

    def sky(self) -> None:
        """The sky gives its own light, so that night does not depend on the day's colour."""
        scene = self.scene
        down = np.linspace(0, 1 / scene.horizon, self.height, dtype=np.float32)[:, None, None].clip(0, 1)
        top = np.array((0.012, 0.02, 0.06) if self.night else scene.sky, np.float32)
        low = np.array((0.06, 0.065, 0.12) if self.night else (0.84, 0.9, 0.96), np.float32)
        self.glow[:] = top + (low - top) * down
        cloud = (0.05, 0.05, 0.08) if self.night else (0.97, 0.97, 0.98)
        for x, y, size in scene.clouds:
            centre = (round(x * self.width), round(y * self.height))
            axes = (round(size * self.width), max(1, round(size * self.height * 0.2)))
            cv2.ellipse(self.glow, centre, axes, 0, 0, 360, cloud, -1)
        cv2.GaussianBlur(self.glow, (0, 0), self.height / 60, dst=self.glow)
        at = (scene.sun[0] * self.width, scene.sun[1] * self.height)
        light = (0.8, 0.82, 0.9) if self.night else (1.3, 1.25, 1.0)
        self.disc(at, self.height * (0.022 if self.night else 0.035), (0.0, 0.0, 0.0), light)

    def ground(self) -> None:
        """Pavement, road and its marks."""
        top = self.scene.horizon * self.height
        self.fill(
            [(0, top), (self.width, top), (self.width, self.height), (0, self.height)], (0.52, 0.5, 0.47)
        )
        far, near = 0.01, 1.5
        self.fill(
            [self.point(side, 0, at) for side, at in ((-1, far), (1, far), (1, near), (-1, near))],
            (0.27,) * 3,
        )
        depth = 1.3
        while depth > 0.05:
            ends = ((-0.03, depth), (0.03, depth), (0.03, depth * 0.8), (-0.03, depth * 0.8))
            self.fill([self.point(side, 0, at) for side, at in ends], (0.92, 0.92, 0.88))
            depth *= 0.62

    def add(self, thing: Thing) -> None:
        """Draws one thing over what stands behind it."""
        if isinstance(thing, House):
            self._house(thing)
        elif isinstance(thing, Tree):
            self._tree(thing)
        elif isinstance(thing, Lamp):
            self._lamp(thing)
        else:
            self._car(thing)

    def _house(self, house: House) -> None:
        kerb = 1.35 * house.side
        corners = ((0.0, house.near), (house.height, house.near), (house.height, house.far), (0.0, house.far))
        self.fill([self.point(kerb, up, at) for up, at in corners], house.wall)
        # The front that looks at the viewer, darker, from the near edge outwards.
        end = kerb + 3.0 * house.side
        front = [self.point(kerb, 0, house.near), self.point(kerb, house.height, house.near)]
        front += [self.point(end, house.height, house.near), self.point(end, 0, house.near)]
        self.fill(front, _scaled(house.wall, 0.7))
        rows, columns = house.lit.shape
        for row in range(rows):
            low = house.height * (0.12 + 0.86 * row / rows)
            high = low + house.height * 0.5 / rows
            for column in range(columns):
                start = house.near + (house.far - house.near) * (column + 0.25) / columns
                stop = house.near + (house.far - house.near) * (column + 0.75) / columns
                pane = [
                    self.point(kerb, up, at)
                    for up, at in ((low, start), (high, start), (high, stop), (low, stop))
                ]
                shines = self.night and bool(house.lit[row, column])
                self.fill(pane, (0.25, 0.32, 0.4), (0.95, 0.72, 0.34) if shines else (0.0, 0.0, 0.0))

    def _tree(self, tree: Tree) -> None:
        side = 1.2 * tree.side
        trunk = [(side - 0.03, 0.0), (side + 0.03, 0.0), (side + 0.03, 0.45), (side - 0.03, 0.45)]
        self.fill([self.point(x, up * tree.height, tree.depth) for x, up in trunk], (0.3, 0.21, 0.14))
        for dx, up, green in ((-0.1, 0.55, 0.9), (0.1, 0.6, 1.0), (0.0, 0.75, 1.15)):
            centre = self.point(side + dx, up * tree.height, tree.depth)
            self.disc(centre, 0.13 * tree.depth * self.height, _scaled((0.16, 0.4, 0.13), green))

    def _lamp(self, lamp: Lamp) -> None:
        for side in (-1.12, 1.12):
            post = [(side - 0.012, 0.0), (side + 0.012, 0.0), (side + 0.012, 0.62), (side - 0.012, 0.62)]
            self.fill([self.point(x, up, lamp.depth) for x, up in post], (0.3, 0.3, 0.32))
            light = (1.6, 1.25, 0.7) if self.night else (0.0, 0.0, 0.0)
            self.disc(
                self.point(side * 0.97, 0.62, lamp.depth), 0.022 * lamp.depth * self.height, (0.8,) * 3, light
            )

    def _car(self, car: Car) -> None:
        def box(left: float, right: float, low: float, high: float, colour: Colour) -> None:
            corners = ((left, low), (right, low), (right, high), (left, high))
            self.fill([self.point(car.lane + x, up, car.depth) for x, up in corners], colour)

        box(-0.25, 0.25, 0.0, 0.06, (0.06, 0.06, 0.06))
        box(-0.27, 0.27, 0.04, 0.16, car.paint)
        box(-0.21, 0.21, 0.16, 0.27, _scaled(car.paint, 0.85))
        box(-0.18, 0.18, 0.17, 0.25, (0.2, 0.26, 0.32))
        colour = (0.9, 0.9, 0.85) if car.oncoming else (0.6, 0.05, 0.05)
        shine = (1.8, 1.75, 1.5) if car.oncoming else (1.2, 0.08, 0.06)
        for x in (-0.2, 0.2):
            centre = self.point(car.lane + x, 0.11, car.depth)
            self.disc(
                centre, 0.022 * car.depth * self.height, colour, shine if self.night else (0.0, 0.0, 0.0)
            )

    def lit(self) -> Floats:
        """Surfaces under the light of the day, or of the lamps by night, plus what gives light itself."""
        if not self.night:
            return self.surface * np.array((1.0, 0.97, 0.9), np.float32) + self.glow
        bloom = cv2.GaussianBlur(self.glow, (0, 0), self.height / 50)
        pools = cv2.GaussianBlur(self.glow, (0, 0), self.height / 9)
        ambient = np.array((0.13, 0.14, 0.21), np.float32)
        image: Floats = self.surface * (ambient + 4.0 * pools) + self.glow + 0.9 * bloom
        return image


def _colour(values: NDArray[np.float64]) -> Colour:
    red, green, blue = values.clip(0.03, 0.97).tolist()
    return red, green, blue


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(1.0, factor * channel) for channel in colour)
    return red, green, blue
