"""Our kernels as ahead-of-time plugins: NVIDIA's own Python on a fake core, and the kernels in Triton's
interpreter.

No TensorRT builder is involved: see export/PLANS.md for what this shows and what only hardware can.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from i2i_export.plan.plugin_cost import cut_at_plugins
from i2i_export.plugins.lowering import DOMAIN, PluginNetwork, network_with_plugins
from i2i_export.plugins.register import compile_kernels, plugin_records, why_no_plugins
from i2i_kernels.pack.recipes import evaluate
from i2i_runtime.engines.tensorrt.manifest import sha256_of

if TYPE_CHECKING:
    from tests.export.plan.conftest import NetworkWriter

STUB = Path(__file__).parent / "trt_stub"
WHEELS = STUB / "wheels"


def need_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton")


@pytest.fixture(scope="module", params=["10.16", "11.4"])
def nvidia_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NVIDIA's `plugin` package of one TensorRT release."""
    release = request.param
    for wheel in WHEELS.glob(f"*bindings-{release}.*.whl"):
        folder = tmp_path_factory.mktemp(f"bindings_{release}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if "/plugin/" in name])
        return folder / "tensorrt_bindings"
    installed = importlib.util.find_spec("tensorrt_bindings")
    if installed is not None and installed.submodule_search_locations:
        folder = Path(installed.submodule_search_locations[0])
        if f'__version__ = "{release}.' in (folder / "__init__.py").read_text(encoding="utf-8"):
            return folder
    pytest.skip(
        f"TensorRT {release}'s bindings are not here: "
        f"pip download --no-deps -d {WHEELS} 'tensorrt-cu13-bindings=={release}.*'"
    )


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_triton()
    return tmp_path_factory.mktemp("pack")


@pytest.fixture
def plugins(network: Any, bodies: Any) -> Callable[..., PluginNetwork]:
    """A residual generator with plugin nodes."""

    def make(size: int = 96, *, convolutions: bool = False) -> PluginNetwork:
        model = network(np.float16).engine(bodies["resnet"](1, 16), size, size)
        found = network_with_plugins(model, convolutions=convolutions)
        assert found is not None
        return found

    return make


def build_pack(network: PluginNetwork, folder: Path, arch: int) -> None:
    from i2i_kernels.compile import build_pack as build

    build(folder, [(kernel.op, kernel.variant) for kernel in network.kernels.values()], [arch])


def listed(network: PluginNetwork) -> str:
    kernels = network.kernels.values()
    return json.dumps([[kernel.op, asdict(kernel.variant), kernel.size] for kernel in kernels])


def answers_of(
    nvidia_python: Path, network: PluginNetwork, pack: Path, sizes: dict[str, int], arch: str = "sm_87"
) -> dict[str, Any]:
    """What each plugin answers to TensorRT's questions for one image."""
    extents = [str(sizes[letter]) for letter in "NCHW"]
    done = subprocess.run(
        [sys.executable, str(STUB / "drive_plugins.py"), str(nvidia_python), str(pack), arch, *extents],
        input=listed(network),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("convolutions", [False, True])
def test_a_plugin_lives_through_a_whole_build(
    convolutions: bool, nvidia_python: Path, plugins: Callable[..., PluginNetwork], pack: Path
) -> None:
    network = plugins(convolutions=convolutions)
    build_pack(network, pack, 87)
    sizes = {"N": 1, "C": 64, "H": 24, "W": 24}
    kernels = compile_kernels(network, "sm_87", pack)
    answers = answers_of(nvidia_python, network, pack, sizes)
    ops = {kernel.op for kernel in kernels.values()}
    assert ops >= ({"conv_norm", "norm_coefficients"} if convolutions else {"norm_stats", "norm_slab"})
    for name, kernel in kernels.items():
        answer, pad = answers[name], kernel.variant.kind.pad
        assert answer["is_our_ptx"]
        assert answer["entry"] == kernel.name
        assert answer["attributes"] == 0, "everything is baked in: attributes are not kept in a plan"
        assert answer["tactics"] == []
        assert answer["block"] == [kernel.block, 1, 1]
        assert answer["shared"] == kernel.shared <= 48 * 1024
        assert answer["grid"] == [evaluate(axis, sizes) for axis in kernel.grid]
        assert answer["extra"] == list(kernel.int32_arguments(**sizes))
        image, splits = [1, 64, 24 + 2 * pad, 24 + 2 * pad], kernel.variant.splits
        expected = {
            "norm_stats": ([[1, splits, 2, 64]], ["HWC8", "LINEAR"]),
            "norm_coefficients": ([[1, 3, 64]], ["LINEAR", "LINEAR"]),
            "conv_norm": ([image, [1, splits, 2, 64]], ["HWC8", "LINEAR", "LINEAR", "HWC8", "LINEAR"]),
        }
        shapes, formats = expected.get(kernel.op, ([image], None))
        assert answer["output_shapes"] == shapes
        assert formats is None or answer["formats"] == formats
        if formats is None:
            assert answer["formats"][0] == answer["formats"][-1] == "HWC8"


def test_the_kernels_take_what_tensorrt_passes(plugins: Callable[..., PluginNetwork], pack: Path) -> None:
    network = plugins()
    build_pack(network, pack, 87)
    for kernel in compile_kernels(network, "sm_87", pack).values():
        entry = re.search(rf"\.entry {kernel.name}\(([^)]*)\)", kernel.ptx)
        assert entry is not None
        parameters = entry[1].split(",")
        assert len(parameters) == len(kernel.arguments), "Triton's hidden pointers must be gone"
        kinds = [".u32" if argument.role == "int32" else ".u64" for argument in kernel.arguments]
        assert all(kind in parameter for kind, parameter in zip(kinds, parameters, strict=True))
        roles = [argument.role for argument in kernel.arguments]
        assert roles == sorted(roles, key=["input", "int32", "output"].index)


def every_kernel(net: NetworkWriter, x: str) -> str:
    """Each form of our kernels once: two launches with a pad, two with a residual, three for a mix, and the single
    launch, with weights, with a pad that others read as a residual, and with a style.
    """
    x = net("Relu", net.convolution(x, 3, 16, 3, pad=1))
    inner = net.reflection(net("Relu", net.norm(net.convolution(x, 16, 16, 3, pad=1), 16)), 1)
    x = net("Add", x, net.norm(net.convolution(inner, 16, 16, 3), 16))
    x = net("Relu", net.mix(net.convolution(x, 16, 16, 1), 16))
    style = net("GlobalAveragePool", x)
    small = net("Relu", net.norm(net.convolution(x, 16, 16, 3, stride=2, pad=1), 16, affine=True))
    inner = net.norm(net.convolution(net.reflection(small, 1), 16, 16, 3), 16)
    small = net("Add", small, net("Add", net("Mul", inner, style), style))
    return net("Tanh", net.convolution(net.doubled(small), 16, 3, 3, pad=1))


@pytest.mark.parametrize("nvidia_python", ["11.4"], indirect=True)
@pytest.mark.parametrize("convolutions", [False, True])
def test_a_network_of_plugins_gives_the_same_image(
    convolutions: bool, nvidia_python: Path, network: Any, pack: Path, tmp_path: Path
) -> None:
    """Grids as NVIDIA's Python answers them, kernels as Triton interprets them, against the network as it
    was.
    """
    model = network(np.float16 if convolutions else np.float32).engine(every_kernel, 66, 66)
    found = network_with_plugins(model, convolutions=convolutions)
    assert found is not None
    fused = {"conv_norm"} if convolutions else set()
    ops = {kernel.op for kernel in found.kernels.values()}
    assert ops == {"norm_stats", "norm_coefficients", "norm_apply", "norm_slab"} | fused
    variants = [kernel.variant for kernel in found.kernels.values()]
    assert any(variant.affine == "sample" for variant in variants)
    assert convolutions or any(variant.residual_pad for variant in variants)
    build_pack(found, pack, 87)
    answers: dict[str, Any] = {}
    for side in (66, 33):
        sizes = {"N": 1, "C": 16, "H": side, "W": side}
        for name, answer in answers_of(nvidia_python, found, pack, sizes).items():
            answers[f"{name} {side}x{side}"] = answer
    onnx.save(found.model, str(tmp_path / "plugins.onnx"))
    (tmp_path / "kernels.json").write_text(listed(found))
    (tmp_path / "grids.json").write_text(json.dumps(answers))
    frame = np.random.default_rng(0).integers(0, 256, (1, 66, 66, 3), dtype=np.uint8)
    np.save(tmp_path / "frame.npy", frame)
    names = ("plugins.onnx", "kernels.json", "frame.npy", "grids.json", "out.npy")
    done = subprocess.run(
        [sys.executable, str(STUB / "run_interpreted.py"), *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (plain,) = session.run(None, {"frame": frame})
    gap = np.abs(np.load(tmp_path / "out.npy").astype(int) - plain)
    assert plain.std() > 20
    assert gap.max() <= (3 if convolutions else 1)
    assert (gap > 0).mean() < (0.3 if convolutions else 0.01)


def test_every_norm_of_the_generator_becomes_plugins(plugins: Callable[..., PluginNetwork]) -> None:
    found = plugins(96)
    operators = [node.op_type for node in found.model.graph.node]
    assert "InstanceNormalization" not in operators
    assert operators.count("Relu") == 0
    nodes = [node for node in found.model.graph.node if node.domain == DOMAIN]
    assert {node.op_type for node in nodes} == set(found.kernels)
    for node in nodes:
        attributes = {attribute.name: attribute.s for attribute in node.attribute}
        assert attributes == {"plugin_namespace": b"i2i", "plugin_version": b"1"}


def test_channels_that_the_kernels_cannot_do_are_left_to_tensorrt(network: Any, bodies: Any) -> None:
    assert network_with_plugins(network().engine(bodies["resnet"](1, 6), 64, 64)) is None
    assert network_with_plugins(network().engine(bodies["student"](1, 16), 64, 64)) is None


def test_weights_and_leaky_activations_enter_the_kernel(network: Any) -> None:
    def body(net: NetworkWriter, x: str) -> str:
        x = net.norm(net.convolution(x, 3, 32, 3, pad=1), 32, affine=True)
        return net("Tanh", net.convolution(net("LeakyRelu", x, alpha=0.1), 32, 3, 1))

    found = network_with_plugins(network().engine(body, 48, 48))
    assert found is not None
    (kernel,) = found.kernels.values()
    variant = kernel.variant
    assert (variant.affine, variant.kind.activation, variant.kind.slope) == ("channel", "leaky", 0.1)
    (node,) = (node for node in found.model.graph.node if node.domain == DOMAIN)
    weights = {weight.name: weight.data_type for weight in found.model.graph.initializer}
    wide = [weights[name] for name in node.input[1:3]]
    assert wide == [onnx.TensorProto.FLOAT] * 2, "half weights are widened: the kernels read float32"
    onnx.checker.check_model(cut_at_plugins(found), full_check=True)


def test_a_value_that_others_read_stays(network: Any) -> None:
    def body(net: NetworkWriter, x: str) -> str:
        normed = net.norm(net.convolution(x, 3, 16, 3, pad=1), 16)
        both = net("Add", net("Relu", normed), normed)
        return net("Tanh", net.convolution(both, 16, 3, 1))

    found = network_with_plugins(network().engine(body, 48, 48))
    assert found is not None
    assert {"Relu", "Add"} <= {node.op_type for node in found.model.graph.node}


@pytest.mark.parametrize(
    ("flavour", "version", "reason"),
    [
        ("tensorrt-rtx", "1.7.1.116", "for RTX takes no"),
        ("tensorrt", "10.3.0", "came with TensorRT 10.9 and this is 10.3.0; JetPack 6"),
        ("tensorrt", "10.8.0.43", "came with TensorRT 10.9"),
        ("tensorrt", "10.14.1.48", "broken in TensorRT 10.14"),
        ("tensorrt", "10.9.0.34", None),
        ("tensorrt", "10.16.1.11", None),
        ("tensorrt", "11.4.0.106", None),
    ],
)
def test_versions_without_working_plugins_are_refused_with_the_reason(
    flavour: str, version: str, reason: str | None
) -> None:
    found = why_no_plugins(flavour, version)
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


def test_a_pack_that_lacks_a_kernel_says_how_to_build_it(
    plugins: Callable[..., PluginNetwork], tmp_path: Path
) -> None:
    from i2i_export.errors import ExportError

    with pytest.raises(ExportError, match=r"kernels cannot be had: the kernel pack .* has no norm_"):
        compile_kernels(plugins(), "sm_87", tmp_path)


def test_the_sidecar_names_each_kernel_by_its_text(plugins: Callable[..., PluginNetwork], pack: Path) -> None:
    network = plugins()
    build_pack(network, pack, 87)
    kernels = compile_kernels(network, "sm_87", pack)
    found = {record.name: record.ptx_sha256 for record in plugin_records(kernels)}
    assert found == {f"i2i::{name}": sha256_of(kernel.ptx.encode()) for name, kernel in kernels.items()}
