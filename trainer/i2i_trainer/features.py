"""Feature networks of the metrics, passed in as files, and a stand-in without one.

No weights are downloaded. A file is ONNX or TorchScript, which hold no Python: programs saved by `torch.export` hold
pickles and expressions that are evaluated when they are loaded, so a `.pt2` from a stranger could run any command.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.errors import DataError

Range = Literal["0,255", "0,1", "-1,1"]
Network = Callable[..., Tensor]


@dataclass(frozen=True)
class FeatureNetwork:
    """Images `[N, 3, H, W]` in [-1, 1] -> features `[N, D] float32`, through a network trained elsewhere.

    The network gets `[N, 3, side, side]`, resized with antialiasing, in its own range; uint8 if it asks for that.
    """

    name: str
    network: Network
    side: int = 299
    range: Range = "0,255"
    as_bytes: bool = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        resized = F.interpolate(
            images.float(), (self.side, self.side), mode="bicubic", antialias=True, align_corners=False
        )
        unit = (resized.clamp(-1, 1) + 1) / 2
        scaled = {"0,255": unit * 255, "0,1": unit, "-1,1": unit * 2 - 1}[self.range]
        features = self.network(scaled.round().to(torch.uint8) if self.as_bytes else scaled)
        return features.float().flatten(1)


class RandomPatches(nn.Module):
    """The stand-in: mean and spread of random filters over 7x7 patches at three scales, from a fixed seed.

    `[N, 3, H, W]` in [-1, 1] -> `[N, 384]`. It sees colour and texture, and knows nothing of objects; its figures
    compare runs of one script with each other, and with nothing else.
    """

    name = "random patches"
    scales = 3

    def __init__(self, filters: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(filters, 3, 7, 7, generator=generator)
        self.register_buffer("weight", weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        self.weight: Tensor

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        features = []
        level = images.float()
        for _ in range(self.scales):
            responses = F.relu(F.conv2d(F.pad(level, (3, 3, 3, 3), mode="replicate"), self.weight)).flatten(2)
            features += [responses.mean(2), responses.std(2, correction=0)]
            level = F.avg_pool2d(level, 2, ceil_mode=True)
        return torch.cat(features, dim=1)


def load_features(path: Path, side: int, value_range: Range) -> FeatureNetwork:
    """The feature network of a file. Raises DataError in one sentence if it is not a network."""
    network, as_bytes = load_network(path)
    return FeatureNetwork(path.name, network, side, value_range, as_bytes)


def load_network(path: Path) -> tuple[Network, bool]:
    """A network from `.onnx` or TorchScript, and whether it wants uint8.

    Raises DataError in one sentence if the file is missing or none of these; so does the network if it does
    not take the images that it is given.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: name a feature network as ONNX or TorchScript file.")
    if path.suffix.lower() == ".pt2":
        raise DataError(
            f"{path} is a torch.export program, and loading one can run any command of its author: "
            "give the network as ONNX or TorchScript."
        )
    try:
        if path.suffix == ".onnx":
            network, as_bytes = _onnx(path)
        else:
            network, as_bytes = _torchscript(path)
    except Exception as error:  # three libraries, each with its own errors
        raise DataError(
            f"{path} cannot be loaded as a network ({_reason(error)}): give ONNX or TorchScript."
        ) from error
    return _telling(path, network), as_bytes


def _telling(path: Path, network: Network) -> Network:
    """The network, its refusal of images told in a sentence."""

    def run(*images: Tensor) -> Tensor:
        try:
            return network(*images)
        except Exception as error:  # three libraries, each with its own errors
            height, width = images[0].shape[-2:]
            raise DataError(
                f"{path} does not take {len(images)} x {height}x{width} images ({_reason(error)}): give the side "
                "that it was made for by --features-side, for an LPIPS network by --size."
            ) from error

    return run


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _onnx(path: Path) -> tuple[Network, bool]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    as_bytes = "uint8" in inputs[0].type
    fixed_batch = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None

    def run_part(*images: Tensor) -> Tensor:
        feeds = {i.name: np.ascontiguousarray(p.cpu().numpy()) for i, p in zip(inputs, images, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0])

    def run(*images: Tensor) -> Tensor:
        """All images, in parts of the batch that the file was made for; the last is filled up with repetitions."""
        if fixed_batch is None:
            return run_part(*images)
        count = len(images[0])
        rows = torch.arange(-(-count // fixed_batch) * fixed_batch).clamp_max(count - 1)
        parts = [run_part(*(p[part] for p in images)) for part in torch.split(rows, fixed_batch)]
        return torch.cat(parts)[:count]

    return run, as_bytes


def _torchscript(path: Path) -> tuple[Network, bool]:
    with warnings.catch_warnings():
        # The feature networks that the field shares are TorchScript; torch would rather have them exported.
        warnings.simplefilter("ignore", DeprecationWarning)
        module: Any = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    arguments = {argument.name for argument in module.forward.schema.arguments}
    if "return_features" in arguments:  # the Inception of the StyleGAN line: bytes in, features on request
        return lambda images: module(images, return_features=True), True
    return lambda *images: module(*images), False
