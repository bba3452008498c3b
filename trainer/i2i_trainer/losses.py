"""Losses that methods share: functions of tensors, computed in float32, each returning a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.errors import OptionError


def lsgan(logits: Sequence[Tensor], target: float) -> Tensor:
    """Least squares: mean squared distance to the target (1 real, 0 fake), summed over the maps; no 1/2."""
    return torch.stack([(x.float() - target).square().mean() for x in logits]).sum()


def nsgan(logits: Sequence[Tensor], target: float) -> Tensor:
    """Sigmoid cross entropy with the target (1 real, 0 fake, 1/2 undecided) per map, summed over the maps."""
    return torch.stack(
        [
            F.binary_cross_entropy_with_logits(x.float(), torch.full_like(x, target, dtype=torch.float32))
            for x in logits
        ]
    ).sum()


def feature_distance(mine: Sequence[Sequence[Tensor]], theirs: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean over all maps of a discriminator's scales of the mean absolute difference (as in pix2pixHD)."""
    pairs = (pair for scale in zip(mine, theirs, strict=True) for pair in zip(*scale, strict=True))
    return torch.stack([F.l1_loss(a.float(), b.float()) for a, b in pairs]).mean()


def softmax_gan(logits: Tensor, real: bool) -> Tensor:
    """Two-class cross entropy of the digits networks; logits `[N, 2]`, class 1 is real."""
    target = torch.full((logits.shape[0],), int(real), dtype=torch.int64, device=logits.device)
    return F.cross_entropy(logits.float(), target)


def hinge_discriminator(logits: Tensor, real: bool) -> Tensor:
    """Mean of `max(0, 1 - logit)` on real, `max(0, 1 + logit)` on fake."""
    return F.relu(1 - logits.float() if real else 1 + logits.float()).mean()


def hinge_generator(logits: Tensor) -> Tensor:
    """Minus the mean logit of the fakes; the generator's loss of the Wasserstein form too."""
    return -logits.float().mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean critic value of the fakes minus that of the real images."""
    return fake.float().mean() - real.float().mean()


def _input_gradients(output: Tensor, x: Tensor) -> Tensor:
    """Gradient of the summed output by its input, one row per sample: `[N, numel]`."""
    gradient: Tensor = torch.autograd.grad(output.sum(), x, create_graph=True)[0]
    return gradient.float().flatten(1)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP: mean of `(|gradient|_2 - 1)^2` at one random mixture per sample of real and fake."""
    share = torch.rand(real.shape[0], 1, 1, 1, device=real.device, dtype=real.dtype)
    mixture = (share * real + (1 - share) * fake).detach().requires_grad_()
    norm = _input_gradients(critic(mixture), mixture).square().sum(dim=1).sqrt()
    return (norm - 1).square().mean()


def r1_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """R1: squared norm of the logits' gradient by the real images, mean over the batch; no 1/2.

    `real` must require gradients and have made `logits`.
    """
    return _input_gradients(logits, real).square().sum(dim=1).mean()


def kl_unit_variance(code: Tensor) -> Tensor:
    """Mean square of the code: UNIT's KL divergence of N(code, I) from N(0, I), without its factor 1/2."""
    return code.float().square().mean()


def kl_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, I), SUMMED over batch and dimensions."""
    mean, log_variance = mean.float(), log_variance.float()
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()


def sum_of_squares(u: Tensor, v: Tensor) -> Tensor:
    """Sum of squared differences per sample, mean over the batch."""
    return (u.float() - v.float()).square().flatten(1).sum(dim=1).mean()


def sum_of_absolutes(u: Tensor, v: Tensor) -> Tensor:
    """Sum of absolute differences per sample, mean over the batch."""
    return (u.float() - v.float()).abs().flatten(1).sum(dim=1).mean()


def mode_seeking(x1: Tensor, x2: Tensor, z1: Tensor, z2: Tensor, eps: float = 1e-5) -> Tensor:
    """`1 / (mean|x1 - x2| / mean|z1 - z2| + eps)`: large where unlike codes make alike images (DRIT++)."""
    ratio = (x1.float() - x2.float()).abs().mean() / (z1.float() - z2.float()).abs().mean()
    return 1 / (ratio + eps)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Matrix product in float32 under autocast too, which would round it to half precision."""
    with torch.autocast(first.device.type, enabled=False):
        return first @ second


def info_nce(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float = 0.07) -> Tensor:
    """Cross entropy of finding the positive. query, positive `[N, D]`; negatives `[K, D]`, for every query.

    Features are compared by their dot product as they are; normalise them before if that is wanted.
    """
    query = query.float()
    right = (query * positive.float()).sum(dim=1, keepdim=True)
    wrong = _product(query, negatives.float().T)
    logits = torch.cat([right, wrong], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """PatchNCE: every location must find its own key among those of the same image; `[N, P, D]` both.

    The keys get no gradient.
    """
    logits = _product(query.float(), key.detach().float().transpose(1, 2)) / temperature
    own = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), own.flatten())


def iic(first: Tensor, second: Tensor, eps: float = 1e-10) -> Tensor:
    """Minus the mutual information between class posteriors `[N, K]` of images and their augmentations."""
    joint = _product(first.float().T, second.float())
    joint = ((joint + joint.T) / 2 / joint.sum()).clamp_min(eps)
    rows, columns = joint.sum(dim=1, keepdim=True), joint.sum(dim=0, keepdim=True)
    return -(joint * (joint.log() - rows.log() - columns.log())).sum()


VGG16_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Widths of VGG16's convolutions up to relu5_3; 0 is a 2x2 max pool."""


class PerceptualLoss(nn.Module):
    """Distance of instance-normalised VGG16 relu5_3 features of an image and its translation (UNIT, MUNIT).

    The weights come from a safetensors file with torchvision's names (`features.0.weight`, ...), so the
    images `[N, 3, H, W] in [-1, 1]` are scaled to ImageNet's mean and deviation. Frozen.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG16_WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self._load(weights)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def _load(self, weights: Path) -> None:
        try:
            stored = load_file(weights)
            self.features.load_state_dict(
                {
                    key.removeprefix("features."): value
                    for key, value in stored.items()
                    if key.startswith("features.") and int(key.split(".")[1]) < len(self.features)
                }
            )
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise OptionError(
                f"the file {weights} of --perceptual-weights holds no VGG16 ({str(error).splitlines()[0]}); "
                "save torchvision's vgg16 state dict with safetensors.torch.save_file"
            ) from error

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        features = [
            F.instance_norm(self.features(((p + 1) / 2 - self.mean) / self.deviation)) for p in (x, y)
        ]
        return F.mse_loss(features[0].float(), features[1].float())
