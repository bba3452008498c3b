"""Metadata of any type, size and depth is read or refused in a sentence, and what is read can be fed to an engine."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_runtime.engines.contract import default_inputs, padded_size
from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import EngineMetadata, ExtraInput, Provenance, SizePolicy, StyleSpec

COMPLETE = json.loads(
    EngineMetadata(
        name="night",
        method="cyclegan",
        direction="day -> night",
        size=SizePolicy(4, 8, 2048, 8, 2048),
        style=StyleSpec(2, (0.0, 1.0), {"red": (1.0, 0.0)}, encoder="style.onnx"),
        extra_inputs=(ExtraInput("mask", (1, 2), (0.5, 0.5)),),
        provenance=Provenance("abc", "streets", 7),
        parity={"psnr_db": 61.0},
        notes={"openvino_precision": "f32"},
    ).to_json()
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of the schema, containers included."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**63, 10**400])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _read(text: str) -> tuple[EngineMetadata | None, str]:
    """The metadata, or the sentence that refuses it; any other error is a bug."""
    try:
        return EngineMetadata.from_json(text, origin="x.onnx"), ""
    except EngineError as error:
        return None, str(error)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_value_of_any_type_is_read_or_refused(data: st.DataObject) -> None:
    raw = copy.deepcopy(COMPLETE)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(_places(raw)))
        value = data.draw(anything)
        if not path:
            raw = value
            break
        place = raw
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    read, refusal = _read(json.dumps(raw))
    if read is None:
        assert refusal.startswith("x.onnx ")
        return
    for feed in default_inputs(read).values():
        assert feed.dtype == np.float32
    with contextlib.suppress(EngineError):
        padded_size(read.size, 64, 64)
    assert EngineMetadata.from_json(read.to_json(), origin="x.onnx").name == read.name


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("schema_version",), "Infinity"),
        (("size", "stride"), "NaN"),
        (("size", "max_width"), "1e999"),
        (("extra_inputs", 0, "shape"), "[-1, 2]"),
        (("extra_inputs", 0, "shape"), "[100000, 100000, 100000]"),
        (("extra_inputs", 0, "shape"), json.dumps([1] * 70)),
        (("extra_inputs", 0, "default"), "[1, 2, 3]"),
        (("extra_inputs",), "null"),
        (("name",), "[" * 900 + "]" * 900),
        (("style",), "[]"),
        (("notes",), "[1]"),
        (("parity", "psnr_db"), '"good"'),
        ((), "[" * 100_000),
    ],
)
def test_hostile_values_are_refused_in_a_sentence(path: tuple[Any, ...], text: str) -> None:
    raw = copy.deepcopy(COMPLETE)
    if path:
        place = raw
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "PLACE"
        text = json.dumps(raw).replace('"PLACE"', text)
    read, refusal = _read(text)
    if read is None:
        assert refusal.startswith("x.onnx ")
        assert "\n" not in refusal
    else:
        assert path == ("name",), "a name may be any text"
