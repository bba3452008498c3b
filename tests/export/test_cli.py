"""The command: from a run folder to a file, what it refuses, and how it ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from i2i_export import parity
from i2i_export.cli import main
from i2i_export.enginefile import EngineFile, read_engine, write_engine
from i2i_export.errors import ExportError
from i2i_export.plan import candidates
from i2i_runtime.metadata import EngineMetadata
from i2i_trainer.checkpoint import read_checkpoint, write_checkpoint, write_config
from i2i_trainer.methods import METHODS

Tell = Callable[[list[str]], tuple[int, str]]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest MUNIT, as the trainer writes it."""
    folder = tmp_path_factory.mktemp("runs") / "winter"
    entry = METHODS["munit"]
    config = entry.config(
        **{**entry.config.presets["small"], "domains": ("summer", "winter"), "data": Path("/x/nordland")}
    )
    torch.manual_seed(0)
    method = entry.method(config)
    write_config(folder, "munit", config)
    tensors = {f"model/{name}": value for name, value in method.state_dict().items()}
    write_checkpoint(folder, "munit", tensors, {"step": 7})
    return folder


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Runs the command; gives its exit code and what it said, on one line."""

    def call(arguments: list[str]) -> tuple[int, str]:
        code = main(arguments)
        return code, " ".join(capsys.readouterr().err.split())

    return call


def test_a_run_becomes_an_engine_with_its_style_encoder(run_folder: Path, tmp_path: Path, tell: Tell) -> None:
    output = tmp_path / "winter.onnx"
    code, said = tell([str(run_folder), "-o", str(output), "--direction", "b2a", "--licence", "CC0-1.0"])
    assert code == 0, said
    assert "ONNX Runtime against torch" in said
    assert "winter -> summer" in said
    metadata = read_engine(output).metadata
    assert (metadata.name, metadata.method, metadata.direction) == ("winter", "munit", "winter -> summer")
    assert metadata.licence == "CC0-1.0"
    assert metadata.provenance.data == "nordland", "no path of the trainer's machine"
    assert len(metadata.provenance.checkpoint_sha256) == 64
    config = METHODS["munit"].config(**METHODS["munit"].config.presets["small"])
    assert metadata.provenance.pictures_seen == 7 * 2 * config.batch
    assert (metadata.provenance.step, metadata.provenance.trained_short_side) == (7, config.load_size)
    assert "Exported: step 7 of 4000, weights as they are." in said
    assert "Learned at a short side of 72 pixels" in said
    assert "Stream with --size 128x72, or export with --guided 8" in said
    assert metadata.parity["max_abs"] <= 1e-3
    assert metadata.style is not None
    assert metadata.style.encoder == "winter.style.onnx"
    encoder = onnx.load(tmp_path / "winter.style.onnx")
    assert [entry.name for entry in encoder.graph.input] == ["frame"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["winter.onnx", "winter.style.onnx"]


def test_the_best_step_of_a_run_is_exported_by_name(run_folder: Path, tmp_path: Path, tell: Tell) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    tensors, _ = read_checkpoint(run, "munit")
    state = {"step": 5, "measure": "l1", "value": 12.5}
    write_checkpoint(run, "munit", tensors, state, "best.safetensors")
    code, said = tell([str(run), "-o", str(tmp_path / "best.onnx"), "--step", "best", "--size", "64x64"])
    assert code == 0, said
    assert "Exported: step 5 of 4000, l1 12.5, weights as they are." in said
    assert read_engine(tmp_path / "best.onnx").metadata.provenance.step == 5
    code, said = tell([str(run), "-o", str(tmp_path / "no.onnx"), "--step", "3"])
    assert code == 1
    assert "has no checkpoint of step 3, it has 7: keep more by --keep N" in said
    code, said = tell([str(run / "checkpoint.safetensors"), "-o", str(tmp_path / "no.onnx")])
    assert code == 2
    assert "is the checkpoint of a run: name its folder" in said


def test_nothing_is_left_by_a_gate_that_comes_after_the_first(
    run_folder: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "HALF_PRECISION", parity.Bound(psnr_db=100))
    output = tmp_path / "winter.onnx"
    code, said = tell([str(run_folder), "-o", str(output), "--size", "64x64", "--precision", "fp16"])
    assert (code, "the fp16 engine differs too much" in said) == (1, True), said
    assert not list(tmp_path.iterdir())


def test_a_style_encoder_follows_its_engine(tmp_path: Path, tell: Tell, painter_engine: EngineFile) -> None:
    style = painter_engine.metadata.style
    assert style is not None
    metadata = replace(painter_engine.metadata, style=replace(style, encoder="master.style.onnx"))
    write_engine(EngineFile(painter_engine.model, metadata), tmp_path / "master.onnx")
    (tmp_path / "master.style.onnx").write_bytes(b"encoder")
    lean = tmp_path / "elsewhere" / "lean.onnx"
    code, said = tell([str(tmp_path / "master.onnx"), "-o", str(lean)])
    assert code == 0, said
    written = read_engine(lean).metadata.style
    assert written is not None
    assert written.encoder == "lean.style.onnx"
    assert (lean.parent / "lean.style.onnx").read_bytes() == b"encoder"

    (tmp_path / "master.style.onnx").unlink()
    code, said = tell([str(tmp_path / "master.onnx"), "-o", str(tmp_path / "alone.onnx")])
    assert (code, "master.style.onnx is not beside" in said) == (0, True), said
    alone = read_engine(tmp_path / "alone.onnx").metadata.style
    assert alone is not None
    assert alone.encoder is None


@pytest.mark.parametrize(
    ("flags", "half"), [([], True), (["--precision", "fp32"], False)], ids=["any precision", "float32"]
)
def test_a_plan_alone_is_built_beside_its_engine(
    flags: list[str],
    half: bool,
    tmp_path: Path,
    tell: Tell,
    plain_engine: EngineFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Path, Path | None, object]] = []

    def build(engine: Path, out: Path | None, **options: object) -> Path:
        asked.append((engine, out, options["half"]))
        raise ExportError("no plan is built here.")

    monkeypatch.setattr(candidates, "plan_from_onnx", build)
    engine = tmp_path / "engines" / "master.onnx"
    write_engine(plain_engine, engine)
    before, here = engine.read_bytes(), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert tell([str(engine), "--plan", *flags])[0] == 1
    assert asked == [(engine, None, half)]
    assert not list(here.iterdir()), "no copy of the engine"
    assert engine.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "wanted"), [("mynight", "mynight.plan"), ("my.night", "my.night.plan"), ("a.plan", "a.plan")]
)
def test_the_plan_s_name_needs_no_suffix(
    tmp_path: Path,
    tell: Tell,
    plain_engine: EngineFile,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    wanted: str,
) -> None:
    asked: list[Path | None] = []

    def build(engine: Path, out: Path | None, **_: object) -> Path:
        asked.append(out)
        raise ExportError("no plan is built here.")

    monkeypatch.setattr(candidates, "plan_from_onnx", build)
    write_engine(plain_engine, tmp_path / "master.onnx")
    arguments = [str(tmp_path / "master.onnx"), "-o", str(tmp_path / "x.onnx"), "--plan"]
    assert tell([*arguments, "--plan-file", str(tmp_path / given)])[0] == 1
    assert asked == [tmp_path / wanted]


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--size", "101x64"], 2, "needs multiples of 4: use 104x64"),
        (["--size", "large"], 2, "write it as WIDTHxHEIGHT"),
        (["--style", "fixed:violet"], 2, "names no preset: there are default, style-1"),
        (["--style", "fixed:1,2"], 2, "holds 2 numbers"),
        (["--style", "loud"], 2, "cannot be read"),
        (["--frames", "/nowhere/clip.mp4"], 1, "does not exist"),
        (["-o", "engine.plan"], 2, "must end in .onnx"),
    ],
)
def test_mistakes_end_in_one_sentence(
    run_folder: Path, tmp_path: Path, tell: Tell, flags: list[str], code: int, sentence: str
) -> None:
    ended, said = tell(
        [str(run_folder), *(["-o", str(tmp_path / "x.onnx")] if "-o" not in flags else []), *flags]
    )
    assert (ended, sentence in said, "Traceback" in said) == (code, True, False), said
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_is_named(tmp_path: Path, tell: Tell) -> None:
    assert tell([str(tmp_path / "missing"), "-o", str(tmp_path / "x.onnx")])[0] == 1
    code, said = tell([str(tmp_path), "-o", str(tmp_path / "x.onnx")])
    assert code == 1
    assert "is not a run folder" in said


def test_an_engine_becomes_a_leaner_one_and_a_server_s_repository(
    tmp_path: Path, tell: Tell, plain_engine: EngineFile
) -> None:
    master, lean = tmp_path / "master.onnx", tmp_path / "lean.onnx"
    write_engine(plain_engine, master)
    before = master.read_bytes()
    arguments = [str(master), "--precision", "fp16", "-o", str(lean), "--name", "lean"]
    code, said = tell([*arguments, "--triton-repository", str(tmp_path / "repository")])
    assert code == 0, said
    assert "fp16 against float32" in said
    assert read_engine(lean).metadata.precision == "fp16"
    assert (tmp_path / "repository" / "lean" / "1" / "model.onnx").read_bytes() == lean.read_bytes()
    assert master.read_bytes() == before
    code, said = tell([str(master), "--precision", "fp16", "-o", str(master)])
    assert (code, "would overwrite" in said) == (2, True), said
    assert master.read_bytes() == before
    assert tell([str(master), "--style", "input", "-o", str(tmp_path / "z.onnx")])[0] == 2


def test_the_engine_tells_the_exporter_from_the_wrapper(
    tmp_path: Path, tell: Tell, network: Callable[..., object]
) -> None:

    model = network([("Mul", ["x", "k"], "y", {})], {"k": np.array([0.5], np.float32)}, 3)
    assert isinstance(model, ir.Model)
    third = tmp_path / "third.onnx"
    onnx.save(ir.to_proto(model), third)
    code, said = tell(["adopt", str(third), "-o", str(tmp_path / "mine.onnx")])
    assert (code, "add --range 0,255" in said) == (2, True), said
    flags = ["--range", "0,1", "--channels", "bgr", "--licence", "MIT", "--direction", "bright -> dim"]
    code, said = tell(["adopt", str(third), "-o", str(tmp_path / "mine.onnx"), *flags])
    assert code == 0, said
    metadata: EngineMetadata = read_engine(tmp_path / "mine.onnx").metadata
    assert (metadata.method, metadata.direction, metadata.licence) == ("adopted", "bright -> dim", "MIT")
    assert metadata.notes["interface"] == "nchw bgr, 0,1 in, 0,1 out"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["adopt", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "adopt THIRD.onnx" in told
    assert "--triton-repository" in told
    assert "--layout" in told
