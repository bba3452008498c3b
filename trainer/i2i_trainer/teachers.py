"""What a student imitates: a trained run, an engine file, or a folder of translated images.

A teacher is not a torch module of the student, so the student's checkpoint does not hold it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.images import ImageFile, TrainingImage
from i2i_trainer.layouts import files_under
from i2i_trainer.method import Inference
from i2i_trainer.pairs import Pairs


class Teacher(Protocol):
    """Shows what a translation should look like."""

    def show(self, images: Tensor, style: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sources and their translations, `[N, 3, S, S]` in [-1, 1] each, for a batch of source images.

        A teacher that cannot translate any image gives others in their place, of its own.
        """
        ...


class NetworkTeacher:
    """A trained translator; `style` is the one that a student without a style of its own is bound to."""

    def __init__(self, network: Inference, style: tuple[float, ...]) -> None:
        self.network = network
        self._style = style

    @torch.no_grad()
    def show(self, images: Tensor, style: Tensor | None) -> tuple[Tensor, Tensor]:
        if style is None and self.network.style_size:
            style = torch.tensor(self._style, device=images.device).expand(len(images), -1)
        return images, self.network(images, style)


class FolderTeacher:
    """Source images and their translations under equal names, whoever made them: a diffusion model, an artist."""

    def __init__(self, sources: Sequence[TrainingImage], folder: Path, config: TrainConfig) -> None:
        made = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files_under(folder)}
        pairs = [(image, ImageFile(made[image.key])) for image in sources if image.key in made]
        if not pairs:
            raise DataError(
                f"--teacher {folder} is not a run folder, and none of its images has the name of a source image: name "
                "translations like their sources."
            )
        self._pairs = Pairs(pairs, config)

    def show(self, images: Tensor, style: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._pairs.draw(len(images), images.device)


class EngineInference(Inference):
    """An engine file as a teacher, run by ONNX Runtime on the processor, image by image."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        super().__init__()
        try:
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            record = json.loads(self._session.get_modelmeta().custom_metadata_map["i2i"])
        except Exception as error:  # ONNX Runtime has errors of its own
            raise OptionError(
                f"--teacher {path} is not an engine: give one that i2i-export wrote, or wrap a network by "
                "i2i-export adopt."
            ) from error
        style, size = record.get("style") or {}, record["size"]
        self.stride = int(size["stride"])
        self.style_size = int(style.get("size", 0))
        self.default_style = tuple(style.get("default", ()))
        if size["min_height"] == size["max_height"]:
            self.fixed_size = (int(size["min_height"]), int(size["min_width"]))

    @torch.no_grad()
    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        frames = ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        translated = []
        for number, frame in enumerate(frames.cpu().numpy()):
            feeds = {"frame": np.ascontiguousarray(frame[None])}
            if self.style_size and style is not None:
                feeds["style"] = style[number : number + 1].float().cpu().numpy()
            translated.append(torch.from_numpy(self._session.run(["translated"], feeds)[0]))
        return torch.cat(translated).permute(0, 3, 1, 2).to(image) / 127.5 - 1
