"""The operators as torch sees them on a CPU: registration, tracing, export, and a package without triton."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2i_kernels.colour.op import (
    image_from_nv12_op,
    image_from_rgb_op,
    nv12_from_image_op,
    rgb_from_image_op,
)
from i2i_kernels.conv_norm.op import conv_norm_op
from i2i_kernels.kind import Kind
from i2i_kernels.norm import adain, instance_norm, layer_norm_munit, norm
from i2i_kernels.norm.op import kind_fields, norm_op
from i2i_kernels.norm.reference import partials_reference
from i2i_kernels.pyramid import down, up
from i2i_kernels.pyramid.op import coarse_op, fine_op


def image(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_(grad)


def norm_arguments(
    kind: Kind, *, rows: tuple[int, ...] | None, residual: bool, splits: int
) -> tuple[Any, ...]:
    mix = {"clamp": (8,), "softmax": (2, 8)}.get(kind.family)
    return (
        image(2, 8, 5, 6),
        None if rows is None else torch.rand(rows).requires_grad_(),
        None if rows is None else torch.rand(rows).requires_grad_(),
        None if mix is None else torch.rand(mix).requires_grad_(),
        image(2, 8, 5, 6) if residual else None,
        *kind_fields(kind),
        splits,
    )


@pytest.mark.parametrize(
    ("operator", "make"),
    [
        (norm_op, lambda: norm_arguments(Kind(activation="relu"), rows=None, residual=False, splits=4)),
        (norm_op, lambda: norm_arguments(Kind("softmax", pad=1), rows=(2, 8), residual=True, splits=4)),
        (norm_op, lambda: norm_arguments(Kind("clamp"), rows=(8,), residual=True, splits=4)),
        (norm_op, lambda: norm_arguments(Kind(), rows=(8,), residual=False, splits=1)),
        (coarse_op, lambda: (image(1, 3, 6, 8), 3, 4, 1.0, False)),
        (fine_op, lambda: (image(1, 3, 3, 4), image(1, 3, 6, 8), 6, 8, -1.0, False)),
        (image_from_rgb_op, lambda: (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.float16)),
        (rgb_from_image_op, lambda: (image(1, 3, 4, 4, grad=False),)),
        (
            image_from_nv12_op,
            lambda: (torch.zeros(1, 6, 8, dtype=torch.uint8), 6, "bt709", False, torch.float32),
        ),
        (nv12_from_image_op, lambda: (image(1, 3, 4, 6, grad=False), 8, "bt601", True)),
        (
            conv_norm_op,
            lambda: (
                (x := image(1, 16, 6, 6, grad=False)),
                partials_reference(x, 4),
                image(16, 16, 3, 3, grad=False),
                1e-5,
                "relu",
                0.2,
            ),
        ),
    ],
)
def test_opcheck(operator: Any, make: Any) -> None:
    torch.manual_seed(0)
    torch.library.opcheck(operator, make())


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (Kind("softmax", unbiased=True, pad=1), (8,)),
        (Kind("clamp", activation="relu"), (2, 8)),
        (Kind(), None),
    ],
)
def test_operator_on_a_cpu_has_the_gradients_of_plain_torch(kind: Kind, rows: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    given = norm_arguments(kind, rows=rows, residual=True, splits=4)
    tensors = [t for t in given if isinstance(t, Tensor)]
    y = norm_op(*given)[0]
    want = norm(given[0], kind, weight=given[1], bias=given[2], mix=given[3], residual=given[4])
    torch.testing.assert_close(y, want)
    dy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, tensors, dy), torch.autograd.grad(want, tensors, dy))


def test_pyramid_operators_differentiate_twice() -> None:
    torch.manual_seed(0)
    x = (
        torch.randn(1, 2, 6, 5, dtype=torch.float64)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    assert torch.autograd.gradgradcheck(lambda t: coarse_op(t * t, 3, 3, 1.0, False), x)


class Block(nn.Module):
    """A generator in miniature, of the public functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = instance_norm(self.conv(x), activation="relu", pad=1)
        style = x.mean((2, 3))
        x = layer_norm_munit(adain(x, style, style), self.weight, self.weight)
        return up(down(x), add=x, scale=-1.0)


def test_compiled_on_a_cpu_it_is_the_same_function() -> None:
    torch.manual_seed(0)
    block, x = Block(), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))
    gradients = [
        torch.autograd.grad(f(x).square().sum(), list(block.parameters())) for f in (compiled, block)
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_exported_on_a_cpu_it_is_standard_operators_alone() -> None:
    torch.manual_seed(0)
    block, x = Block().eval(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(block, (x,))
        torch.testing.assert_close(program.module()(x), block(x))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called
    assert not [name for name in called if name.startswith("i2i")]
    assert any("instance_norm" in name for name in called)


def test_exported_operator_stays_one_node() -> None:
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = norm_op(x, None, None, None, None, *kind_fields(Kind()), 8)[0]
            return y

    program = torch.export.export(Fused(), (image(1, 8, 8, 8, grad=False),))
    assert [str(n.target) for n in program.graph.nodes].count("i2i.norm.default") == 1


def test_public_functions_work_without_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from i2i_kernels.norm import instance_norm\n"
        "from i2i_kernels.pyramid import down\n"
        "from i2i_kernels.colour import image_from_rgb\n"
        "print(tuple(down(instance_norm(torch.ones(1, 3, 8, 8))).shape))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "(1, 3, 4, 4)\n", done.stderr
