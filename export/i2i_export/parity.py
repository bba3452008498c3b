"""The gate: two forms of one translator run on the same frames, the differences are tabled and bounded.

The first form is the reference (the torch network, or the float32 engine), the second was made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from rich.table import Table

from i2i_export.enginefile import extra_feeds
from i2i_export.errors import ExportError
from i2i_export.ssim import worst_ssim
from i2i_runtime.files import reason_of
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, STYLE, TRANSLATED

PSNR_CEILING_DB = 99.0
"""Stated for equal images, whose ratio has no value."""


@dataclass(frozen=True)
class Translation:
    """One translated frame before and after rounding.

    `unrounded`: `[H, W, 3] float32 RGB in [-1, 1]`, already clamped; `image`: `[H, W, 3] uint8`.
    """

    unrounded: NDArray[np.float32]
    image: Image


class Translator(Protocol):
    """Anything that translates one `[H, W, 3] uint8` frame."""

    def translate(self, frame: Image, style: NDArray[np.float32] | None) -> Translation: ...


@dataclass(frozen=True)
class Bound:
    """What a form must keep: the largest error on the [-1, 1] scale, the lowest PSNR and SSIM."""

    max_abs: float | None = None
    psnr_db: float | None = None
    ssim: float | None = None
    """In the worst square of 32 x 32 pixels (ssim.py)."""

    def __str__(self) -> str:
        parts = []
        if self.max_abs is not None:
            parts.append(f"max |error| <= {self.max_abs:g}")
        if self.psnr_db is not None:
            parts.append(f"PSNR >= {self.psnr_db:g} dB")
        if self.ssim is not None:
            parts.append(f"worst SSIM >= {self.ssim:g}")
        return " and ".join(parts)


SAME_NETWORK = Bound(max_abs=1e-3)
HALF_PRECISION = Bound(psnr_db=45.0)
INT8 = Bound(psnr_db=38.0, ssim=0.9)


@dataclass(frozen=True)
class Row:
    """Differences of one frame; `off` is the share of values that differ after rounding."""

    height: int
    width: int
    max_abs: float
    mean_abs: float
    max_255: int
    off: float
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class Report:
    """The table of errors of one comparison."""

    title: str
    bound: Bound
    rows: tuple[Row, ...]

    @property
    def max_abs(self) -> float:
        return max(row.max_abs for row in self.rows)

    @property
    def psnr_db(self) -> float:
        return min(row.psnr_db for row in self.rows)

    @property
    def ssim(self) -> float:
        return min(row.ssim for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether every frame keeps the bound; a value that is not a number never does."""
        return all(
            np.isfinite(row.max_abs)
            and (self.bound.max_abs is None or row.max_abs <= self.bound.max_abs)
            and (self.bound.psnr_db is None or row.psnr_db >= self.bound.psnr_db)
            and (self.bound.ssim is None or row.ssim >= self.bound.ssim)
            for row in self.rows
        )

    def figures(self) -> dict[str, float]:
        """What the engine's metadata keeps of it."""
        return {
            "max_abs": float(f"{self.max_abs:.3g}"),
            "max_abs_255": float(max(row.max_255 for row in self.rows)),
            "psnr_db": round(self.psnr_db, 2),
            "worst_ssim": round(self.ssim, 4),
            "frames": float(len(self.rows)),
        }

    def to_table(self) -> Table:
        table = Table(title=f"{self.title} ({self.bound}: {'passed' if self.passed else 'FAILED'})")
        for heading in (
            FRAME,
            "max |error|",
            "mean |error|",
            "max of 255",
            "values off",
            "PSNR dB",
            "SSIM",
        ):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(
                f"{row.width}x{row.height}",
                f"{row.max_abs:.2e}",
                f"{row.mean_abs:.2e}",
                str(row.max_255),
                f"{row.off:.3%}",
                f"{row.psnr_db:.2f}",
                f"{row.ssim:.4f}",
            )
        return table


class ParityError(ExportError):
    """A form whose image differs from the reference by more than its bound."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report
        self.table = report.to_table()


class OnnxTranslator:
    """An engine file under ONNX Runtime on the CPU, with the tensor before the last rounding made visible."""

    def __init__(self, model: onnx.ModelProto) -> None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        self._tap, self._channels_first = _tap_unrounded(tapped)
        self._session = cpu_session(tapped)
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._extras = extra_feeds(model)

    def translate(self, frame: Image, style: NDArray[np.float32] | None) -> Translation:
        feeds: dict[str, NDArray[np.generic]] = {**self._extras, FRAME: frame[None]}
        if style is not None and STYLE in self._inputs:
            feeds["style"] = style
        names = [TRANSLATED] + ([self._tap] if self._tap else [])
        try:
            outputs = self._session.run(names, feeds)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes here
            height, width = frame.shape[:2]
            raise ExportError(
                f"the engine does not run at {width}x{height} ({reason_of(error)}): fix another size with --size."
            ) from error
        image: Image = outputs[0][0]
        if self._tap:
            levels = outputs[1][0].transpose(1, 2, 0) if self._channels_first else outputs[1][0]
            unrounded = levels.astype(np.float32) / np.float32(127.5) - 1
        else:
            unrounded = image.astype(np.float32) / np.float32(127.5) - 1
        return Translation(unrounded, image)


def cpu_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Opens a network in ONNX Runtime on the CPU. Raises ExportError with the library's reason."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its complaints arrive as exceptions too
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes here
        raise ExportError(
            f"ONNX Runtime refuses this network ({reason_of(error)}): export it again from its source."
        ) from error


def compare(
    title: str,
    truth: Translator,
    candidate: Translator,
    frames: Sequence[Image],
    bound: Bound,
    style: NDArray[np.float32] | None = None,
) -> Report:
    """Translates every frame with both and measures the differences; `style` `[1, S]` goes to both."""
    rows = []
    for frame in frames:
        wanted, got = truth.translate(frame, style), candidate.translate(frame, style)
        rows.append(_row(wanted, got))
    return Report(title, bound, tuple(rows))


def require(report: Report, subject: str, remedy: str) -> None:
    """Raises ParityError, which carries the table, if a bound is broken."""
    if not report.passed:
        raise ParityError(
            f"{subject} differs too much (max |error| {report.max_abs:.2e}, PSNR {report.psnr_db:.1f} dB, "
            f"worst SSIM {report.ssim:.3f}, asked for {report.bound}): {remedy}",
            report,
        )


def psnr_db(wanted: Image, got: Image) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB, at most `PSNR_CEILING_DB`."""
    mse = float(np.mean((wanted.astype(np.float64) - got.astype(np.float64)) ** 2))
    return PSNR_CEILING_DB if mse == 0 else min(PSNR_CEILING_DB, 10 * float(np.log10(255.0**2 / mse)))


def _row(wanted: Translation, got: Translation) -> Row:
    if wanted.image.shape != got.image.shape:
        raise ExportError(
            f"the two forms give different sizes, {wanted.image.shape[:2]} and {got.image.shape[:2]}: "
            "the network does not keep the image's size for this frame, fix one with --size."
        )
    errors = np.abs(wanted.unrounded - got.unrounded)
    steps = np.abs(wanted.image.astype(np.int16) - got.image.astype(np.int16))
    height, width = got.image.shape[:2]
    return Row(
        height,
        width,
        max_abs=float(errors.max()),
        mean_abs=float(errors.mean()),
        max_255=int(steps.max()),
        off=float(np.mean(steps > 0)),
        psnr_db=psnr_db(wanted.image, got.image),
        ssim=worst_ssim(wanted.image, got.image),
    )


def _tap_unrounded(model: onnx.ModelProto) -> tuple[str | None, bool]:
    """Makes the float tensor (levels 0 to 255) that is rounded last an output.

    Returns its name, None if there is no such tensor, and whether it is `[1, 3, H, W]`, not `[1, H, W, 3]`.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    node, channels_first = makers.get(TRANSLATED), False
    while node is not None and node.op_type in ("Cast", "Transpose"):
        channels_first |= node.op_type == "Transpose"
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Round":
        return None, False
    name: str = node.input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return name, channels_first
