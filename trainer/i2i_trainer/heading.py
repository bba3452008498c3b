"""What a training found and is going to do, in the lines that are printed before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from i2i_trainer.config import TrainConfig
from i2i_trainer.images import TrainingImage
from i2i_trainer.layouts import Domains
from i2i_trainer.method import Method

SIZES_READ = 64
"""Most images of a domain whose size is read."""


def heading(
    name: str, config: TrainConfig, domains: Domains, validation: Domains | None, method: Method, device: str
) -> list[str]:
    """Four lines: images, direction, networks, device. The time that it takes is known after the first steps."""
    source, target = domains.names
    images = f"{domains.layout}: {described(source, domains.a)}"
    if domains.layout not in ("single", "class-folders"):
        images += f", {described(target, domains.b)}"
    if validation is not None:
        images += f"; {len(validation.a)} and {len(validation.b)} more to validate on"
    both = len(method.directions()) > 1
    learns = f"{source} -> {target}" + (f" and {target} -> {source}" if both else "")
    swap = "an engine does the first unless told otherwise" if both else "--swap is the other way"
    millions = sum(parameter.numel() for parameter in method.parameters()) / 1e6
    networks = (
        f"{name}, {millions:.1f} M weights, on {config.image_size}x{config.image_size} crops of images with a short "
        f"side of {config.load_size}"
    )
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device == "cpu" else ""
    precision = {"32": "32 bit", "bf16": "bfloat16", "16": "16 bit"}[config.precision]
    return [
        f"images    {images}",
        f"learns    {learns} ({swap})",
        f"networks  {networks}",
        f"runs on   {device}{threads}, {precision}",
    ]


def described(domain: str, images: Sequence[TrainingImage]) -> str:
    """`40 images of day (640x480 to 1920x1080)`."""
    sizes = sorted(sizes_of(images), key=lambda size: size[0] * size[1])
    if not sizes:
        return f"{len(images)} images of {domain}"
    smallest, largest = sizes[0], sizes[-1]
    span = f"{smallest[0]}x{smallest[1]}"
    if largest != smallest:
        span += f" to {largest[0]}x{largest[1]}"
    return f"{len(images)} images of {domain} ({span})"


def sizes_of(images: Sequence[TrainingImage]) -> list[tuple[int, int]]:
    """Width and height of some of the images, spread over the folder; the unreadable ones are left out."""
    some = images[:: max(1, len(images) // SIZES_READ)]
    return [size for image in some if (size := image.size()) is not None]


def remarks_on_sizes(domains: Domains, load_size: int) -> list[str]:
    """A sentence for each domain whose images are enlarged."""
    remarks = []
    for name, images in dict(zip(domains.names, (domains.a, domains.b), strict=True)).items():
        smallest = min((min(size) for size in sizes_of(images)), default=load_size)
        if 2 * smallest < load_size:
            remarks.append(
                f"The smallest image of {name} has a side of {smallest} and is enlarged to {load_size}."
            )
    return remarks


def duration(seconds: float) -> str:
    """`4 h 36 min`, `12 min`, `40 s`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(0, round(seconds))} s"
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
