"""Measures against numbers worked out by hand, and the evaluation of a run."""

from __future__ import annotations

import json
import math
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from rich.console import Console
from torch import Tensor, nn

from i2i_trainer import evaluation, metrics
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.evaluation import Options, evaluate
from i2i_trainer.features import RandomPatches, load_features, load_network
from i2i_trainer.loop import train
from i2i_trainer.methods.cyclegan import CycleGANConfig


def level(value: float) -> float:
    return value / 127.5 - 1


def test_pixel_accuracy_needs_all_three_channels() -> None:
    truth = torch.full((1, 3, 2, 2), level(100))
    near = truth.clone()
    near[0, 0, 0, 0] = level(116)
    near[0, 1, 0, 1] = level(117)
    assert metrics.pixel_accuracy(near, truth) == 0.75


def test_errors_in_levels() -> None:
    truth = torch.full((2, 3, 16, 16), level(100))
    off = truth.clone()
    off[0] = level(110)
    found = metrics.error_to_truth(off, truth)
    assert found["l1"] == pytest.approx(5)
    assert found["rmse"] == pytest.approx(math.sqrt(50))
    psnr = 10 * math.log10(255**2 / 100), 10 * math.log10(255**2 / 1e-4)
    assert found["psnr_db"] == pytest.approx(sum(psnr) / 2, rel=1e-4)
    assert metrics.error_to_truth(truth, truth)["ssim"] == pytest.approx(1)


def test_frechet_distance_of_shifted_features_is_the_squared_shift() -> None:
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert metrics.frechet_distance(features, features + 3.0) == pytest.approx(4 * 9, rel=1e-3)
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-3)
    assert metrics.mean_class_distance([features] * 2, [features, features + 3.0]) == pytest.approx(
        18, rel=1e-3
    )


def test_kernel_distance_by_hand() -> None:
    # k(x, y) = (xy + 1)^3: within {1, 2}: 27; within {0, 3}: 1; across: (1, 64, 1, 343) / 4.
    real, fake = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    mean, spread = metrics.kernel_distance(real, fake, subsets=3)
    assert mean == pytest.approx(27 + 1 - 2 * 409 / 4)
    assert spread == pytest.approx(0, abs=1e-9)


def test_diversity_counts_pairs_of_one_image() -> None:
    def translate(image: Tensor, style: Tensor) -> Tensor:
        return image + style.mean() * 0 + style[0, 0]

    def distance(one: Tensor, other: Tensor) -> Tensor:
        assert one.shape == (5, 3, 2, 2)
        return (one - other).abs().flatten(1).mean(1)

    found = metrics.diversity(translate, distance, torch.zeros(40, 3, 2, 2), style_size=1, pairs=5)
    assert found == pytest.approx(2 / math.sqrt(math.pi), rel=0.1)  # mean |x - y| of two normal numbers
    assert metrics.diversity(lambda p, s: p, distance, torch.zeros(2, 3, 2, 2), 1, pairs=5) == 0


def test_accuracies() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    assert metrics.class_accuracy(logits, torch.tensor([1, 0, 0, 1])) == 0.5
    clusters, labels = torch.tensor([2, 2, 0, 0, 1]), torch.tensor([0, 0, 1, 1, 1])
    assert metrics.cluster_accuracy(clusters, labels) == 0.8
    unlabelled = torch.tensor([0, -1, 1, 1, -1])
    assert metrics.cluster_accuracy(clusters, unlabelled) == 1.0


def test_flicker_ignores_motion_and_sees_flicker() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (12, 20, 3), dtype=np.uint8)
    ground = np.asarray(
        torch.nn.functional.interpolate(
            torch.from_numpy(noise).permute(2, 0, 1)[None].float(), scale_factor=8, mode="bicubic"
        )[0]
        .clamp(0, 255)
        .permute(1, 2, 0)
        .byte()
    )
    source = [np.ascontiguousarray(ground[:, 2 * i : 2 * i + 120]) for i in range(4)]
    steady = metrics.flicker(source, [255 - frame for frame in source])
    assert steady.translated == pytest.approx(steady.source, rel=0.05)
    assert steady.source < 4
    jumping = [np.clip(frame // 2 + 20 * (i % 2), 0, 255).astype(np.uint8) for i, frame in enumerate(source)]
    assert 18 < metrics.flicker(source, jumping).translated < 24


def test_feature_networks_from_files(tmp_path: Path) -> None:
    images = torch.rand(3, 3, 20, 20) * 2 - 1
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network, torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "mean.pt"))  # type: ignore[no-untyped-call]
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "mean.onnx",
    )
    whole, script = (load_features(tmp_path / name, 8, "0,255")(images) for name in ("mean.onnx", "mean.pt"))
    assert whole.shape == (3, 3)
    torch.testing.assert_close(whole, script)
    torch.testing.assert_close(whole, (images.mean((2, 3)) + 1) * 127.5, rtol=0.05, atol=8)
    torch.testing.assert_close(load_features(tmp_path / "mean.pt", 8, "-1,1")(images), whole / 127.5 - 1)
    (tmp_path / "none.onnx").write_bytes(b"nothing")
    for name in ("none.onnx", "absent.pt"):
        with pytest.raises(DataError, match=name):
            load_network(tmp_path / name)


class _Command:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


@pytest.mark.parametrize("name", ["evil.pt2", "evil.PT2", "evil.pt", "evil.onnx", "evil.bin"])
def test_a_feature_network_runs_no_code_of_its_author(tmp_path: Path, name: str) -> None:
    torch.save(_Command(f"touch {tmp_path / 'ran'}"), tmp_path / name)
    with pytest.raises(DataError, match=r"ONNX or TorchScript\.$"):
        load_network(tmp_path / name)
    with torch.no_grad():
        program = torch.export.export(nn.Sequential(nn.Flatten()), (torch.zeros(1, 3, 2, 2),))
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save(_Command(f"touch {tmp_path / 'ran'}"), tmp_path / "pickle")
    with zipfile.ZipFile(tmp_path / "program.pt2") as source, zipfile.ZipFile(tmp_path / name, "w") as target:
        for member in source.namelist():
            evil = member.endswith((".pt", ".pkl"))
            target.writestr(member, (tmp_path / "pickle").read_bytes() if evil else source.read(member))
    with pytest.raises(DataError, match=r"ONNX or TorchScript\.$"):
        load_network(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_onnx_networks_of_a_fixed_batch_and_of_another_side(tmp_path: Path) -> None:
    for name, inputs in (("features", ["x"]), ("distance", ["x", "y"])):
        shape = [4, 3, 8, 8]
        joined = helper.make_node("Sub" if len(inputs) == 2 else "Identity", inputs, ["z"])
        graph = helper.make_graph(
            [joined, helper.make_node("GlobalAveragePool", ["z"], ["out"])],
            name,
            [helper.make_tensor_value_info(each, TensorProto.FLOAT, shape) for each in inputs],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 3, 1, 1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / f"{name}.onnx")
    images = torch.rand(6, 3, 8, 8) * 2 - 1
    features = load_features(tmp_path / "features.onnx", 8, "-1,1")
    torch.testing.assert_close(features(images), images.mean((2, 3)), rtol=0, atol=1e-5)
    distance, _ = load_network(tmp_path / "distance.onnx")
    others = images.flip(0)
    expected = (images - others).mean((2, 3), keepdim=True)
    torch.testing.assert_close(distance(images, others), expected, rtol=0, atol=1e-5)
    with pytest.raises(DataError, match=r"features\.onnx does not take .*12x12 .*--features-side"):
        load_features(tmp_path / "features.onnx", 12, "-1,1")(images)


def test_stand_in_is_the_same_every_time() -> None:
    images = torch.rand(2, 3, 30, 20) * 2 - 1
    features = RandomPatches()(images)
    assert features.shape == (2, 384)
    assert torch.equal(features, RandomPatches()(images))


def test_evaluation_of_a_run(
    tiny: CycleGANConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("cyclegan", tiny)
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    record = evaluate(Options(run=run, truth=True, clip=clip))
    assert json.loads((run / "metrics.json").read_text()) == record
    assert (run / "metrics.png").is_file()
    assert record["split"] == "test"
    assert record["pictures"] == {"source": 3, "target": 3, "side": 16}
    found = set(record["metrics"])
    assert {"patch_frechet", "patch_kid_x100", "pixel_accuracy_within_16", "l1_of_source"} <= found
    assert {"l1_of_shuffled_truth", "warping_error"} <= found
    assert not {"fid", "kid_x100", "lpips_diversity"} & found
    assert "no FID" in capsys.readouterr().out
    back = evaluate(Options(run=run, direction="b2a", split="train"))
    assert back["domains"] == ["B", "A"]
    assert "l1" not in back["metrics"]
    with pytest.raises(OptionError, match="multiple of 4"):
        evaluate(Options(run=run, size=18))
    with pytest.raises(DataError, match="no images set aside for val"):
        evaluate(Options(run=run, split="val"))
    with pytest.raises(DataError, match="is not a folder"):
        evaluate(Options(run=run, data=tmp_path / "nowhere"))


def test_the_spread_of_the_kernel_distance_is_that_of_subsets() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(200, 4, generator=generator) for _ in range(2))
    mean, spread = metrics.kernel_distance(real, fake)
    assert spread > 0.005
    assert abs(mean) < spread  # two samples of one distribution
    more_real, more_fake = (torch.randn(1600, 4, generator=generator) for _ in range(2))
    assert metrics.kernel_distance(more_real, more_fake)[1] < 0.5 * spread


def test_the_table_sets_source_and_shuffled_truth_beside_the_translation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluation._print(
        Console(width=120),
        {
            "l1": 20.0,
            "l1_of_source": 40.0,
            "l1_of_shuffled_truth": 30.0,
            "patch_kid_x100_std": 0.5,
            "cluster_accuracy": 0.9,
        },
    )
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell for cell in row if cell != "│"] for row in rows]
    assert ["l1", "lower", "20", "40", "30"] in cells
    assert ["patch_kid_x100_std", "0.5"] in cells
    assert ["cluster_accuracy", "higher", "0.9"] in cells
