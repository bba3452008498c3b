"""Every kernel under Triton's interpreter against plain torch in float64, forward and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from i2i_kernels.numerics import Case, broken, cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name.replace(" ", "-"))
def test_kernel_agrees_with_float64(
    case: Case, interpreter_errors: Callable[[str], dict[str, float]]
) -> None:
    errors = interpreter_errors(case.name)
    assert errors
    assert not broken(case, errors)


def test_unwritten_output_breaks_its_bound() -> None:
    case = cases()[0]
    assert broken(case, {"y": float("inf")})
    assert broken(case, {"y": float("nan")})
    assert not broken(case, {"y": 0.0})
