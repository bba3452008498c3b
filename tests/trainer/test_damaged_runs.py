"""What a run folder holds is checked: a value of another kind is one sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from i2i_trainer.checkpoint import VERSION, read_checkpoint, read_config, read_state, write_config
from i2i_trainer.errors import CheckpointError
from i2i_trainer.methods import METHODS

CHANGES: dict[str, Any] = {
    "method": ["cyclegan"],
    "version": {},
    "config": [[]],
    "load_size": "large",
    "lr": None,
    "steps": {"a": 1},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_config_of_other_kinds_is_refused(tmp_path: Path, name: str) -> None:
    write_config(tmp_path, "cyclegan", METHODS["cyclegan"].config(data=tmp_path))
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    (content if name in content else content["config"])[name] = CHANGES[name]
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"config\.json") as refused:
        read_config(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_config_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 5000)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        read_config(tmp_path)


@pytest.mark.parametrize("state", ["[1]", "3", "null", "[" * 5000, "nonsense"])
def test_a_state_that_is_not_an_object_is_refused(tmp_path: Path, state: str) -> None:
    described = {"state": state, "method": "cyclegan", "version": str(VERSION)}
    save_file({"net.weight": np.zeros(2, np.float32)}, tmp_path / "checkpoint.safetensors", described)
    for read in (lambda: read_checkpoint(tmp_path, "cyclegan"), lambda: read_state(tmp_path)):
        with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is damaged"):
            read()
