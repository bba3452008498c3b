"""Every method's inference goes through the gate at two sizes, and keeps the engine contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from i2i_export import parity
from i2i_export.enginefile import check_contract
from i2i_export.frames import fit_all
from i2i_export.run.trace import Origin, check_against_torch, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_runtime.frame import Image
from i2i_runtime.metadata import SizePolicy
from i2i_trainer.method import Inference
from i2i_trainer.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_inference_goes_through_the_gate(
    name: str, inference_from_method: Callable[[str], Inference], origin: Origin, street: list[Image]
) -> None:
    inference = inference_from_method(name)
    if inference.fixed_size is not None:
        size = SizePolicy.fixed(*inference.fixed_size)
        sizes = [inference.fixed_size]
    else:
        size = dynamic_size(inference.stride)
        sizes = [(size.min_height, size.min_width), (size.min_height, size.min_width + size.stride)]
    engine = engine_from_inference(inference, size, origin)
    report = check_against_torch(engine, inference, fit_all(street[:1], sizes))
    assert {(row.height, row.width) for row in report.rows} == set(sizes)
    assert report.max_abs <= 1e-3
    assert engine.metadata.macs > 0
    check_contract(engine.to_proto(), origin=name)
    styled = engine.metadata.style
    assert (styled is not None) == (inference.style_size > 0)
    if styled is not None:
        frame, other = fit_all(street[:1], sizes)[0], np.full((1, styled.size), 2.0, np.float32)
        translator = parity.OnnxTranslator(engine.to_proto())
        default = np.asarray([styled.default], np.float32)
        moved = translator.translate(frame, other).unrounded - translator.translate(frame, default).unrounded
        assert np.abs(moved).max() > 0, "the style must reach the image"
