"""One network into one plan: TensorRT 10.x and 11.x and TensorRT for RTX through the same few calls.

Every network is strongly typed: the precision stands in the ONNX file (TensorRT 11 knows nothing else). What
a flavour or version has is asked of its own classes, never of its version number.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from i2i_export.errors import ExportError
from i2i_runtime.engines.tensorrt.api import (
    Builder,
    BuilderConfig,
    LogBook,
    Network,
    TensorRT,
    progress_monitor,
)
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX
from i2i_runtime.files import reason_of, write_whole
from i2i_runtime.metadata import FRAME, SizePolicy

logger = logging.getLogger(__name__)

TALLEST, WIDEST = 1088, 1920
"""A plan of dynamic size stops here unless told otherwise: its memory is laid out for the largest image."""
USUAL_HEIGHT, USUAL_WIDTH = 720, 1280


@dataclass(frozen=True)
class FrameProfile:
    """Smallest, usual and largest (height, width) of a plan."""

    smallest: tuple[int, int]
    usual: tuple[int, int]
    largest: tuple[int, int]

    @property
    def is_fixed(self) -> bool:
        return self.smallest == self.largest

    def narrow(self, policy: SizePolicy) -> SizePolicy:
        """The size policy of the plan: the engine's own, cut down to this profile."""
        if self.is_fixed:
            return SizePolicy.fixed(*self.largest)
        return SizePolicy(policy.stride, self.smallest[0], self.largest[0], self.smallest[1], self.largest[1])


def profile_from_policy(policy: SizePolicy, size: tuple[int, int] | None = None) -> FrameProfile:
    """The profile of a policy, or of one (height, width) of it. Raises ExportError if the size is not
    allowed.
    """
    low, high = (policy.min_height, policy.min_width), (policy.max_height, policy.max_width)
    if size is not None:
        fits = all(
            least <= side <= most and side % policy.stride == 0
            for least, side, most in zip(low, size, high, strict=True)
        )
        if not fits:
            raise ExportError(
                f"--size {size[1]}x{size[0]} is not a size of this engine, which takes {low[1]}x{low[0]} to "
                f"{high[1]}x{high[0]} in steps of {policy.stride}: choose one of those."
            )
        return FrameProfile(size, size, size)
    largest = tuple(
        max(least, min(most, limit) // policy.stride * policy.stride)
        for least, most, limit in zip(low, high, (TALLEST, WIDEST), strict=True)
    )
    usual = tuple(
        max(least, min(most, limit) // policy.stride * policy.stride)
        for least, most, limit in zip(low, largest, (USUAL_HEIGHT, USUAL_WIDTH), strict=True)
    )
    return FrameProfile(low, (usual[0], usual[1]), (largest[0], largest[1]))


def pinned_to_size(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """A copy whose `frame` and outputs have this fixed size, so that every shape inside follows."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for tensor in (*fixed.graph.input, *fixed.graph.output):
        if len(tensor.type.tensor_type.shape.dim) != 4:
            continue
        for axis, extent in ((1, height), (2, width)):
            tensor.type.tensor_type.shape.dim[axis].Clear()
            tensor.type.tensor_type.shape.dim[axis].dim_value = extent
    return fixed


class BuildBar:
    """TensorRT's nested build phases as progress bars that vanish when done; silent without a terminal."""

    def __init__(self, console: Console | None) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=console is None or not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BuildBar:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._tasks[phase] = self._bars.add_task(f"  {phase}" if parent else phase, total=steps)

    def step(self, phase: str, index: int) -> bool:
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=index + 1)
        return True

    def finish(self, phase: str) -> None:
        task = self._tasks.pop(phase, None)
        if task is not None:
            self._bars.remove_task(task)


class PlanBuilder:
    """Builds plans of one flavour for given architectures (`sm_89`); the timing cache is read and kept up
    to date.
    """

    def __init__(
        self,
        trt: TensorRT,
        flavour: str,
        architectures: tuple[str, ...],
        *,
        timing_cache: Path | None,
        bar: BuildBar,
    ) -> None:
        self._trt = trt
        self._flavour = flavour
        self.architectures = architectures
        self._timing_cache = timing_cache
        self._bar = bar
        self._log = LogBook(trt)
        self.network_flags = _network_flags(trt)

    def build(
        self, model: onnx.ModelProto, profile: FrameProfile, *, origin: str, channels_last: bool = False
    ) -> bytes:
        """The plan's bytes. Raises ExportError naming the operator that TensorRT cannot take, or its reason.

        With `channels_last`, half-precision inputs and outputs of the network lie in memory as `[N, H, W,
        C]`.
        """
        builder = self._create_builder()
        bits = 0
        for name in self.network_flags:
            bits |= 1 << int(self._trt.NetworkDefinitionCreationFlag.__members__[name])
        network = builder.create_network(bits)
        self._parse(network, model, origin)
        if channels_last:
            self._lay_channels_last(network)
        config = builder.create_builder_config()
        monitor = progress_monitor(self._trt, self._bar.start, self._bar.step, self._bar.finish)
        config.progress_monitor = monitor
        self._add_profile(builder, network, config, profile)
        if self._flavour == TENSORRT_RTX:
            self._set_architectures(config)
            # Only a plan whose memory comes from outside can be captured in a CUDA graph at every size.
            config.set_flag(getattr(self._trt, "BuilderFlag").REQUIRE_USER_ALLOCATION)  # noqa: B009 - its flag alone
        with self._caching(config):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ExportError(
                f"{origin} was parsed, but TensorRT could not build a plan from it ({self._log.last_error}): "
                "free device memory, or build a smaller --size."
            )
        return bytes(plan)

    def _create_builder(self) -> Builder:
        try:
            return self._trt.Builder(self._log.logger)
        except (TypeError, RuntimeError) as error:
            raise ExportError(
                f"TensorRT {self._trt.__version__} cannot start a build here ({self._log.last_error}): it needs an "
                "NVIDIA GPU and driver (see `nvidia-smi`), or build without one with "
                "`--target tensorrt-rtx --arch sm_89`."
            ) from error

    def _parse(self, network: Network, model: onnx.ModelProto, origin: str) -> None:
        parser = self._trt.OnnxParser(network, self._log.logger)
        if parser.parse(model.SerializeToString()):
            return
        reason = "the parser gave no reason"
        if parser.num_errors:
            error = parser.get_error(0)
            described = " ".join(error.desc().split()).rstrip(".")
            reason = f"node {error.node_name() or '(unnamed)'} ({error.node_operator()}): {described}"
        raise ExportError(
            f"{origin} cannot become a TensorRT plan, because TensorRT does not support an operator of it ({reason}): "
            f"replace that operator, or run the ONNX file with `i2i-stream --engine {origin}`."
        )

    def _lay_channels_last(self, network: Network) -> None:
        half = self._trt.DataType.__members__["HALF"]
        layout = 1 << int(self._trt.TensorFormat.__members__["HWC8"])
        ends = [network.get_input(index) for index in range(network.num_inputs)]
        ends += [network.get_output(index) for index in range(network.num_outputs)]
        for tensor in ends:
            if tensor.dtype == half:
                tensor.allowed_formats = layout

    def _add_profile(
        self, builder: Builder, network: Network, config: BuilderConfig, profile: FrameProfile
    ) -> None:
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        if all(-1 not in tuple(tensor.shape) for tensor in inputs):
            return
        shapes = builder.create_optimization_profile()
        low, usual, high = ((1, *size, 3) for size in (profile.smallest, profile.usual, profile.largest))
        shapes.set_shape(FRAME, low, usual, high)
        config.add_optimization_profile(shapes)

    def _set_architectures(self, config: BuilderConfig) -> None:
        known = getattr(self._trt, "ComputeCapability").__members__  # noqa: B009 - only this flavour has it
        config.num_compute_capabilities = len(self.architectures)
        for index, architecture in enumerate(self.architectures):
            config.set_compute_capability(known[architecture.replace("sm_", "SM")], index)

    @contextlib.contextmanager
    def _caching(self, config: BuilderConfig) -> Iterator[None]:
        """Full TensorRT remembers what it timed; TensorRT for RTX times nothing, and its cache calls have no
        effect.
        """
        if self._timing_cache is None or self._flavour == TENSORRT_RTX:
            yield
            return
        known = self._timing_cache.read_bytes() if self._timing_cache.is_file() else b""
        cache = config.create_timing_cache(known)
        if not config.set_timing_cache(cache, False):
            logger.info("%s is of another GPU or TensorRT and is started anew", self._timing_cache.name)
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        yield
        grown = bytes(cache.serialize())
        if grown == known:
            return
        try:
            write_whole(self._timing_cache, grown)
        except OSError as error:  # the plan is built, and a cache is only a cache
            logger.warning(
                "The timing cache %s is not kept (%s): the next build measures again",
                self._timing_cache,
                reason_of(error),
            )


def supported_architectures(trt: Any) -> tuple[str, ...]:
    """What TensorRT for RTX can build for, as `sm_75`; read off its own enumeration."""
    return tuple(
        name.replace("SM", "sm_") for name in trt.ComputeCapability.__members__ if name.startswith("SM")
    )


def _network_flags(trt: TensorRT) -> tuple[str, ...]:
    return tuple(
        name for name in ("STRONGLY_TYPED",) if name in trt.NetworkDefinitionCreationFlag.__members__
    )


def plan_name(
    engine: str, profile: FrameProfile, precision: str, flavour: str, version: tuple[int, ...], target: str
) -> str:
    """`day2night.1280x720.fp16.rtx-1.7.1.sm_89.plan`: all that decides whether a plan fits stands in its
    name.
    """
    size = f"{profile.largest[1]}x{profile.largest[0]}"
    if not profile.is_fixed:
        size = f"upto-{size}"
    library = "rtx" if flavour == TENSORRT_RTX else "trt"
    numbers = ".".join(str(number) for number in version[:3])
    return os.fspath(f"{engine}.{size}.{precision}.{library}-{numbers}.{target}.plan")
