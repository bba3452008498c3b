"""The pack that is built without a GPU: what must hold of the text, the machine code and the launch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from i2i_kernels.compile import PTX_VERSIONS, CompiledKernel, build_pack, read_entry
from i2i_kernels.kind import Kind
from i2i_kernels.pack.assemble import loads, without_debug_sections, without_hidden_parameters
from i2i_kernels.pack.recipes import Op, Variant, recipe

MOST_REGISTERS = 128
MOST_SHARED = 48 * 1024
"""Dynamic shared memory that a launch may use without an attribute that TensorRT may not set."""


@pytest.fixture(params=list(PTX_VERSIONS), ids=lambda arch: f"sm_{arch}")
def kernel(request: pytest.FixtureRequest, entry: tuple[Op, Variant], pack: Path) -> CompiledKernel:
    return read_entry(pack, *entry, request.param)


def test_nothing_spills_and_loads_are_wide(kernel: CompiledKernel) -> None:
    found = kernel.resources
    assert 0 < found["registers"] <= MOST_REGISTERS
    assert found["spill_stores"] == found["spill_loads"] == 0
    assert found["wide_loads"] == found["loads"] > 0
    assert kernel.shared <= MOST_SHARED


def test_entry_has_the_arguments_of_the_launch_and_no_others(kernel: CompiledKernel) -> None:
    match = re.search(r"\.visible \.entry (\w+)\((.*?)\)", kernel.ptx, re.DOTALL)
    assert match is not None
    assert match.group(1) == kernel.name
    kinds = ["u32" if "u32" in line else "u64" for line in match.group(2).split(",")]
    assert kinds == ["u32" if a.role == "int32" else "u64" for a in kernel.arguments]
    assert f".reqntid {kernel.block}" in kernel.ptx


def test_arguments_stand_in_the_order_of_a_tensorrt_plugin(kernel: CompiledKernel) -> None:
    roles = [argument.role for argument in kernel.arguments]
    assert roles == sorted(roles, key=["input", "int32", "output"].index)


def test_text_is_old_enough_for_the_driver_and_names_its_architecture(kernel: CompiledKernel) -> None:
    major, minor = divmod(PTX_VERSIONS[kernel.arch], 10)
    assert re.search(rf"(?m)^\.version {major}\.{minor}$", kernel.ptx)
    assert re.search(rf"(?m)^\.target sm_{kernel.arch}a?$", kernel.ptx)
    assert ".file" not in kernel.ptx
    assert "debug" not in kernel.ptx
    assert kernel.cubin.startswith(b"\x7fELF")


def test_an_independent_assembler_takes_the_text(pack: Path, tmp_path: Path) -> None:
    ptxas = next(
        (p for p in ("/usr/local/cuda/bin/ptxas", shutil.which("ptxas")) if p and Path(p).exists()), None
    )
    if ptxas is None:
        pytest.skip("no ptxas besides triton's own is installed")
    for arch in PTX_VERSIONS:
        suffix = "a" if arch >= 90 else ""
        for source in sorted((pack / f"sm_{arch}").glob("*.ptx")):
            command = [
                ptxas,
                f"--gpu-name=sm_{arch}{suffix}",
                str(source),
                "-o",
                str(tmp_path / "kernel.cubin"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{source.name} for sm_{arch}: {done.stderr}"


def test_grid_covers_every_pixel_and_channel(kernel: CompiledKernel) -> None:
    n, c, h, w = 2, 80, 45, 67
    grid = kernel.launch_grid(N=n, C=c, H=h, W=w)
    plan = recipe(kernel.op, kernel.variant)
    block_c, block_hw = int(str(plan.constants["BLOCK_C"])), int(str(plan.constants.get("BLOCK_HW", 0)))
    assert n in grid
    assert any((blocks - 1) * block_c < c <= blocks * block_c for blocks in grid)
    if kernel.op == "norm_apply":
        pad = 2 * kernel.variant.kind.pad
        run = block_hw * kernel.variant.tiles
        assert (grid[0] - 1) * run < (h + pad) * (w + pad) <= grid[0] * run
    sizes = {"C": c, "H": h, "W": w, "HW": h * w}
    wanted = [sizes[a.name] for a in kernel.arguments if a.role == "int32"]
    assert list(kernel.int32_arguments(N=n, C=c, H=h, W=w)) == wanted


def test_pack_is_described_and_read_without_torch_and_triton(pack: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from pathlib import Path\n"
        "import i2i_kernels.kind, i2i_kernels.pack.entries, i2i_kernels.pack.policy\n"
        "from i2i_kernels.compile import pack_entry\n"
        "from i2i_kernels.pack.recipes import Variant\n"
        f"print(pack_entry('norm_stats', Variant(), 87, Path({str(pack)!r})).name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "stats_kernel\n"


def test_a_whole_pack_is_not_built_again_and_a_stale_kernel_is(pack: Path) -> None:
    op, variant = "norm_stats", Variant()
    path = pack / "sm_75" / f"{variant.file_stem(op)}.json"
    before = path.stat().st_mtime_ns
    build_pack(pack, [("norm_stats", variant)], [75])
    assert path.stat().st_mtime_ns == before
    whole = path.read_text()
    path.write_text(re.sub(r'"sources": "\w+"', '"sources": "older"', whole))
    build_pack(pack, [("norm_stats", variant)], [75])
    assert path.read_text() == whole


PTX = """.target sm_90a, debug
\t.file\t1 "/somewhere/kernel.py"
.visible .entry k(
\t.param .u64 k_param_0,
\t.param .u32 k_param_1,
\t.param .u64 k_param_2,
\t.param .u64 k_param_3
)
{
\t.loc\t1 5 3
\tld.param.b64 %rd1, [k_param_0];
\tld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];
\tld.global.b16 %rs1, [%rd1];
\tcp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;
}
\t.section\t.debug_abbrev
\t{
.b8 1
\t}
"""


def test_hidden_parameters_and_debug_sections_go() -> None:
    ptx = without_hidden_parameters(PTX, 2)
    assert re.findall(r"k_param_\d", ptx.split("{")[0]) == ["k_param_0", "k_param_1"]
    assert without_debug_sections(ptx) == ptx
    assert not re.search(r"debug|\.loc|\.file", ptx)
    assert loads(ptx) == {"loads": 3, "wide_loads": 2}


@pytest.mark.parametrize(("wanted", "words"), [(3, "4 parameters, 3 and 2"), (1, "4 parameters, 1 and 2")])
def test_an_unexpected_number_of_parameters_is_refused(wanted: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        without_hidden_parameters(PTX, wanted)


def test_a_kernel_that_reads_a_hidden_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden parameter k_param_3"):
        without_hidden_parameters(PTX.replace("[k_param_0]", "[k_param_3]"), 2)


def test_variants_that_differ_in_any_field_have_their_own_files() -> None:
    plain = Variant()
    others = [Variant("bfloat16"), Variant(splits=8), Variant(kind=Kind(eps=1e-6)), Variant(kind=Kind(pad=1))]
    stems = {variant.file_stem("norm_apply") for variant in (plain, *others)}
    assert len(stems) == 5
    assert Variant(kind=Kind()).file_stem("norm_apply") == plain.file_stem("norm_apply")
