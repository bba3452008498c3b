"""The model repository, parsed by the server's own published schema."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from i2i_export.enginefile import EngineFile, write_engine
from i2i_export.errors import ExportError
from i2i_export.serving import config_from_metadata, repository_from_engine
from i2i_runtime.metadata import EngineMetadata, ExtraInput, SizePolicy


@pytest.fixture(scope="module")
def schema() -> Any:
    return pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="the server's schema comes with tritonclient[grpc]"
    )


def parsed(schema: Any, text: str) -> Any:
    return text_format.Parse(text, schema.ModelConfig())


def test_the_repository_holds_what_the_server_reads(
    schema: Any, tmp_path: Path, painter_engine: EngineFile
) -> None:
    write_engine(painter_engine, tmp_path / "little.onnx")
    folder = repository_from_engine(tmp_path / "little.onnx", tmp_path / "repository")
    files = sorted(
        str(path.relative_to(tmp_path / "repository")) for path in folder.rglob("*") if path.is_file()
    )
    assert files == ["little/1/model.onnx", "little/client.py", "little/config.pbtxt"]
    assert (folder / "1" / "model.onnx").read_bytes() == (tmp_path / "little.onnx").read_bytes()
    config = parsed(schema, (folder / "config.pbtxt").read_text())
    assert (config.name, config.platform, config.max_batch_size) == ("little", "onnxruntime_onnx", 0)
    inputs = {entry.name: (entry.data_type, list(entry.dims)) for entry in config.input}
    assert inputs == {"frame": (schema.TYPE_UINT8, [1, -1, -1, 3]), "style": (schema.TYPE_FP32, [1, 4])}
    assert [(entry.name, list(entry.dims)) for entry in config.output] == [("translated", [1, -1, -1, 3])]
    warm = config.model_warmup[0].inputs
    assert list(warm["frame"].dims) == [1, 64, 64, 3]
    stored = EngineMetadata.from_json(config.parameters["i2i"].string_value, origin="config")
    assert stored == painter_engine.metadata


def test_odd_names_and_extra_inputs_survive_the_text_form(schema: Any, painter_engine: EngineFile) -> None:
    metadata = replace(
        painter_engine.metadata,
        licence='quoted "so"\\ and\nso, für alle',
        size=SizePolicy.fixed(720, 1280),
        extra_inputs=(ExtraInput("strength", (1,), (1.0,)),),
    )
    config = parsed(schema, config_from_metadata(metadata, "tensorrt_plan"))
    assert EngineMetadata.from_json(config.parameters["i2i"].string_value, origin="config") == metadata
    assert [entry.name for entry in config.input] == ["frame", "style", "strength"]
    assert list(config.input[0].dims) == [1, 720, 1280, 3]


def test_the_client_is_a_program_for_this_engine(tmp_path: Path, painter_engine: EngineFile) -> None:
    write_engine(painter_engine, tmp_path / "little.onnx")
    folder = repository_from_engine(tmp_path / "little.onnx", tmp_path / "repository")
    text = (folder / "client.py").read_text()
    ast.parse(text)
    assert "client.infer('little'" in text.replace('"', "'")
    assert "-height % 4" in text
    assert "[0.5, -1.0, 0.25, 0.0]" in text


def test_the_client_is_a_program_whatever_the_engine_is_called(
    tmp_path: Path, painter_engine: EngineFile
) -> None:
    metadata = replace(painter_engine.metadata, name="night\"v2'", direction='day """ -> \\Night')
    write_engine(EngineFile(painter_engine.model, metadata), tmp_path / "odd.onnx")
    folder = repository_from_engine(tmp_path / "odd.onnx", tmp_path / "repository")
    program = ast.parse((folder / "client.py").read_text())
    names = {node.value for node in ast.walk(program) if isinstance(node, ast.Constant)}
    assert metadata.name in names
    assert metadata.direction in str(ast.get_docstring(program))


def test_what_is_no_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"neither \.onnx nor \.plan"):
        repository_from_engine(tmp_path / "engine.pt", tmp_path)
    (tmp_path / "lonely.plan").write_bytes(b"plan")
    with pytest.raises(ExportError, match=r"lonely\.plan\.json"):
        repository_from_engine(tmp_path / "lonely.plan", tmp_path)
