"""Damaged and hostile inputs for everything that reads what it did not write: engines, metadata, URIs, names,
requests, journals, run folders, and pairs of container and codec (the last three in fuzz_files.py).

    python runtime/stress/fuzz.py                 # 120,500 inputs; adds a row to fuzz.jsonl beside this file
    python runtime/stress/fuzz.py --scale 0.01    # a short run; adds nothing

Every input follows from the seed, the target's name and its number alone. Each target runs in a process of
its own, so that a crash is seen and counted. Right is: the project's own error, or an ordinary result. Wrong
is any other exception, the death of the process, no answer within `HANG_S`, or a file outside the output
folder. Exit code 1 where anything was wrong.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import multiprocessing
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from fuzz_files import fuzz_journal, fuzz_pair, fuzz_run_folder

from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
from i2i_runtime.engines.tensorrt.manifest import read_manifest, sidecar_path
from i2i_runtime.errors import I2IError
from i2i_runtime.frame import Frame
from i2i_runtime.logs import JsonFormatter
from i2i_runtime.metadata import METADATA_KEY, EngineMetadata, SizePolicy, StyleSpec
from i2i_runtime.uri import parse_uri
from i2i_runtime.web.auth import Access, Gatekeeper, ServerOptions, open_access

ROWS = Path(__file__).parent / "fuzz.jsonl"
HANG_S = 30.0
TOKEN = "correct-horse-battery-staple"
SECRET = "s3cr3t-passw0rd"

Check = Callable[[random.Random, Path], None]
"""Makes one input from the generator, uses it inside the folder; raises where the answer is wrong."""


@dataclass(frozen=True)
class Fuzz:
    """Feed damaged inputs to the runtime."""

    seed: int = 1
    scale: float = 1.0
    target: str | None = None
    """One target alone; all unless said."""


class Wrong(Exception):
    """The code answered, but the answer breaks a rule."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, repeats and overwrites between one and eight places."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(damaged) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(damaged):
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[at : at + rng.randint(1, 40)] = b""
        elif kind == 2:
            damaged[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 3:
            damaged[at : at + 4] = rng.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]
            )
        elif kind == 4:
            damaged[at:at] = damaged[at : at + rng.randint(1, 200)]
        else:
            damaged[at : at + 12] = rng.choice(
                [b"../../../etc", b'"\\u0000', b"%s%n%x", b"1e999", b"-1", b"[[[[[["]
            )
    return bytes(damaged)


def fuzz_engine(rng: random.Random, folder: Path) -> None:
    path = folder / "damaged.onnx"
    path.write_bytes(mutated(_engine(), rng))
    engine = OnnxRuntimeEngine(path, threads=1)
    image = np.zeros((rng.choice([1, 8, 17]), rng.choice([1, 8, 17]), 3), np.uint8)
    if engine.infer(image).shape != image.shape:
        raise Wrong("another size came back")


def _engine() -> bytes:
    """A small engine of the contract: uint8 to float, two convolutions with a style in between, back to
    uint8.
    """
    global _ENGINE
    if _ENGINE is None:
        from onnx import TensorProto, helper, numpy_helper

        rng = np.random.default_rng(0)
        weights = [
            numpy_helper.from_array(rng.normal(0, 0.1, (3, 3, 3, 3)).astype(np.float32), f"w{i}")
            for i in (0, 1)
        ]
        nodes = [
            helper.make_node("Cast", ["frame"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Unsqueeze", ["style", "axes"], ["s"]),
            helper.make_node("Add", ["a", "s"], ["b"]),
            helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Clip", ["c", "low", "high"], ["d"]),
            helper.make_node("Transpose", ["d"], ["e"], perm=[0, 2, 3, 1]),
            helper.make_node("Cast", ["e"], ["translated"], to=TensorProto.UINT8),
        ]
        constants = [
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.array(0, np.float32), "low"),
            numpy_helper.from_array(np.array(255, np.float32), "high"),
        ]
        shape: list[str | int | None] = [1, "h", "w", 3]
        graph = helper.make_graph(
            nodes,
            "engine",
            [
                helper.make_tensor_value_info("frame", TensorProto.UINT8, shape),
                helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 3]),
            ],
            [helper.make_tensor_value_info("translated", TensorProto.UINT8, shape)],
            [*weights, *constants],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        helper.set_model_props(model, {METADATA_KEY: _metadata().to_json()})
        _ENGINE = model.SerializeToString()
    return _ENGINE


_ENGINE: bytes | None = None


def _metadata() -> EngineMetadata:
    style = StyleSpec(3, (0.0, 0.0, 0.0), {"red": (1.0, 0.0, 0.0)})
    return EngineMetadata("fuzz", "none", "a -> b", SizePolicy(stride=4), style=style)


def fuzz_metadata(rng: random.Random, folder: Path) -> None:
    if rng.random() < 0.5:
        text = mutated(_metadata().to_json().encode(), rng).decode("utf-8", "surrogateescape")
    else:
        text = json.dumps(_bent(json.loads(_metadata().to_json()), rng))
    metadata = EngineMetadata.from_json(text, origin="fuzz")
    encoder = metadata.style.encoder if metadata.style else None
    if encoder is not None and Path(encoder).name != encoder:
        raise Wrong(f"the style encoder {encoder!r} leaves the engine's folder")


def _bent(value: Any, rng: random.Random) -> Any:
    """The same JSON with one to three values replaced by something of another kind."""
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        10**400,
        1e308,
        -0.0,
        float("nan"),
        "",
        "../x",
        "\0",
        [],
        [[]],
        {},
        {"size": {}},
        "9" * 5000,
    ]
    for _ in range(rng.randint(1, 3)):
        spot = value
        while True:
            key = rng.choice(list(spot)) if isinstance(spot, dict) and spot else None
            if isinstance(spot, list) and spot:
                key = rng.randrange(len(spot))
            if key is None:
                break
            if not isinstance(spot[key], (dict, list)) or rng.random() < 0.4:
                spot[key] = copy.deepcopy(rng.choice(odd))
                break
            spot = spot[key]
    return value


def fuzz_sidecar(rng: random.Random, folder: Path) -> None:
    plan = folder / "damaged.plan"
    raw = json.loads(_metadata().to_json())
    raw["plan"] = {
        "flavour": "tensorrt", "tensorrt_version": "11.4.0.106", "architectures": ["sm_89"], "onnx_file": "a.onnx",
        "onnx_sha256": "0" * 64, "plan_sha256": "0" * 64, "plugins": [{"name": "i2i::norm", "ptx_sha256": "0" * 64}],
        "candidates": [{"form": "plain", "kept": True, "launches": 9}], "schema_version": 1,
    }  # fmt: skip
    text = json.dumps(raw if rng.random() < 0.5 else _bent(raw, rng)).encode()
    sidecar_path(plan).write_bytes(mutated(text, rng) if rng.random() < 0.5 else text)
    _, manifest = read_manifest(plan)
    if Path(manifest.onnx_file).name != manifest.onnx_file:
        raise Wrong(f"the engine file {manifest.onnx_file!r} leaves the plan's folder")


def fuzz_uri(rng: random.Random, folder: Path) -> None:
    schemes = [
        "rtsp://",
        "RTMP://",
        "mjpeg://",
        "file:",
        "screen:",
        "csi://",
        "",
        "http://",
        "virtualcam:",
        "x" * 300,
    ]
    pieces = [
        "@",
        ":",
        "/",
        "..",
        "\0",
        "\n",
        "?",
        "#",
        "[",
        "]",
        "é",
        "8080",
        "0.0.0.0",
        "%2e",
        " ",
        "\\",
        "token=",
        ",",
    ]
    text = rng.choice(schemes) + "".join(rng.choice(pieces) for _ in range(rng.randint(0, 12)))
    uri = parse_uri(text)
    str(uri)
    with_secret = (
        f"rtsp://user:{SECRET}@host{text if text.startswith('/') else ''}/live?token={SECRET}&x={text[:5]}"
    )
    if SECRET in parse_uri(with_secret).shown:
        raise Wrong(f"a secret is shown: {parse_uri(with_secret).shown!r}")
    from i2i_runtime.sources import SourceOptions
    from i2i_runtime.sources.jetson import csi_line
    from i2i_runtime.sources.screen import ScreenSource

    for use in (
        lambda: open_access(text, 1, ServerOptions()),
        lambda: csi_line(uri.location, SourceOptions()),
    ):
        with contextlib.suppress(I2IError):
            use()
    if rng.random() < 0.02:
        ScreenSource(uri.location)


def fuzz_names(rng: random.Random, folder: Path) -> None:
    """Images whose sources have hostile names, into a folder."""
    from i2i_runtime.media.origin import ImageOrigin
    from i2i_runtime.sinks import SinkOptions
    from i2i_runtime.sinks.images import ImageSink

    inside = folder / "out"
    parts = ["..", "/", "a", ".png", "\\", " ", ".", "é", "x" * 245, "\n", "-", "~", ".partial", "%00"]
    name = "".join(rng.choice(parts) for _ in range(rng.randint(1, 8)))
    if not Path(name).name.strip("."):
        return  # no file can be called that
    image = np.zeros((4, 4, 3), np.uint8)
    origin = ImageOrigin(Path(name), deep=False, icc=None)
    frame = Frame(image, 0, 0, Fraction(1, 25), 0.0, origin=origin)
    before = _files(folder)
    try:
        sink = ImageSink(inside, SinkOptions())
        sink.write(frame, frame)
    finally:
        new = _files(folder) - before
        if any(inside not in path.parents for path in new):
            raise Wrong(f"{name!r} wrote outside the output folder: {new}")
        for path in new:
            path.unlink()


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def fuzz_gatekeeper(rng: random.Random, folder: Path) -> None:
    """Request heads without the token: none may pass."""
    keeper = Gatekeeper(Access("127.0.0.1", 80, token=TOKEN))
    names = [
        "host",
        "origin",
        "cookie",
        "authorization",
        "content-length",
        "transfer-encoding",
        "sec-fetch-site",
        "x",
    ]
    values = [
        "127.0.0.1",
        "[::1]:80",
        "evil",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        "i2i_token=",
        f"i2i_token={TOKEN}x",
        "\xff",
    ]
    values += [
        "",
        "0",
        "-1",
        "1" * 400,
        "chunked",
        "cross-site",
        ";" * 90,
        '"',
        "\r\nx: y",
        "http://127.0.0.1",
        "127.0.0.1:",
    ]
    headers = [("host", "127.0.0.1")] if rng.random() < 0.7 else []
    headers += [(rng.choice(names), rng.choice(values)) for _ in range(rng.randint(0, 6))]
    query = "".join(
        rng.choice(["token", "=", "&", "%", "\xff", TOKEN[:-1], "+", ";", "%00"])
        for _ in range(rng.randint(0, 9))
    )
    method = rng.choice(["GET", "HEAD", "POST", "", "GET\0"])
    if (
        keeper.judge(
            method, rng.choice(["/", "//", "/..", "/figures", "\0", "x" * 3000]), query, headers
        ).status
        == 200
    ):
        raise Wrong("a request without the token was let in")


class HttpTarget:
    """Damaged requests on a socket to a page that asks for a token; after each hundred the server must
    still answer.
    """

    def __init__(self) -> None:
        from i2i_runtime.sinks.mjpeg import MjpegSink

        with contextlib.redirect_stderr(io.StringIO()):
            self._sink = MjpegSink(Access("127.0.0.1", 0, token=TOKEN))
        self._count = 0

    def __call__(self, rng: random.Random, folder: Path) -> None:
        path = rng.choice(["/", "/pair.mjpg", "/figures", "/page.js", "/../../etc/passwd", "/%2e%2e/x"])
        request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        answer = self._ask(
            mutated(request, rng) if rng.random() < 0.95 else rng.randbytes(rng.randint(0, 3000))
        )
        if answer.startswith(b"HTTP/1.1 200"):
            raise Wrong("a request without the token was answered")
        self._count += 1
        if self._count % 100 == 0:
            good = f"GET /figures?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            if not self._ask(good.encode(), HANG_S).startswith(b"HTTP/1.1 200"):
                raise Wrong("the server does not answer any more")

    def _ask(self, request: bytes, patience_s: float = 0.03) -> bytes:
        """What comes back; a request that is not complete gets no answer and is given up soon."""
        address = ("127.0.0.1", self._sink.port)
        with (
            contextlib.suppress(ConnectionError, TimeoutError),
            socket.create_connection(address, 10) as connection,
        ):
            connection.sendall(request)
            connection.settimeout(patience_s)
            return connection.recv(4096)
        return b""


def fuzz_log(rng: random.Random, folder: Path) -> None:
    """Events with hostile texts stay one JSON object on one line, without the secret."""
    import logging

    text = mutated(b"rtsp://user:pass@host/x?token=1 Bearer y", rng).decode("utf-8", "replace")
    whole = f"{text} rtsp://user:{SECRET}@host/x"
    record = logging.LogRecord("i2i_runtime.fuzz", logging.INFO, "", 0, "%s", (whole,), None)
    line = JsonFormatter().format(record)
    if "\n" in line or not isinstance(json.loads(line), dict):
        raise Wrong("not one JSON object on one line")
    if f":{SECRET}@" in line:
        raise Wrong("a password was logged")


TARGETS: dict[str, tuple[Callable[[], Check], int]] = {
    "engine": (lambda: fuzz_engine, 5_000),
    "metadata": (lambda: fuzz_metadata, 30_000),
    "sidecar": (lambda: fuzz_sidecar, 10_000),
    "uri": (lambda: fuzz_uri, 20_000),
    "names": (lambda: fuzz_names, 5_000),
    "gatekeeper": (lambda: fuzz_gatekeeper, 20_000),
    "http": (HttpTarget, 10_000),
    "log": (lambda: fuzz_log, 5_000),
    "journal": (lambda: fuzz_journal, 12_000),
    "run": (lambda: fuzz_run_folder, 3_000),
    "pair": (lambda: fuzz_pair, 500),
}


def work(name: str, seed: int, first: int, count: int, number: Synchronized[int], findings: Any) -> None:
    """Runs inputs `first` to `count` of a target in this process and reports what was wrong."""
    check = TARGETS[name][0]()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(first, count):
            number.value = index
            try:
                check(random.Random(f"{seed}/{name}/{index}"), Path(folder))
            except I2IError:
                pass
            except Exception as error:
                findings.put((index, f"{type(error).__name__}: {error}"[:300]))
    number.value = count
    findings.put(None)


def run(name: str, seed: int, count: int) -> dict[str, Any]:
    """All inputs of one target; goes on behind an input that killed or hung its process."""
    fork = multiprocessing.get_context("fork")
    wrong: list[str] = []
    first, began_s = 0, time.monotonic()
    while first < count:
        number, findings = fork.Value("q", first), fork.SimpleQueue()
        worker = fork.Process(target=work, args=(name, seed, first, count, number, findings), daemon=True)
        worker.start()
        seen, seen_s, done = first, time.monotonic(), False
        while not done and (worker.is_alive() or not findings.empty()):
            while not findings.empty():
                finding = findings.get()
                done = finding is None
                if finding is not None:
                    wrong.append(f"{name} {finding[0]}: {finding[1]}")
            if number.value != seen:
                seen, seen_s = number.value, time.monotonic()
            if time.monotonic() - seen_s > HANG_S:
                wrong.append(f"{name} {seen}: no answer for {HANG_S:.0f} s")
                worker.kill()
                break
            worker.join(timeout=0.05)
        if done:
            worker.kill()
            break
        worker.join()
        if worker.exitcode != -9:
            wrong.append(f"{name} {number.value}: the process died with {worker.exitcode}")
        first = number.value + 1
    return {"inputs": count, "wrong": wrong, "seconds": round(time.monotonic() - began_s, 1)}


def main() -> None:
    options = tyro.cli(Fuzz)
    names = TARGETS if options.target is None else [options.target]
    results = {
        name: run(name, options.seed, max(1, round(TARGETS[name][1] * options.scale))) for name in names
    }
    total = sum(result["inputs"] for result in results.values())
    wrong = [line for result in results.values() for line in result["wrong"]]
    row = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": options.seed,
        "inputs": total,
        "wrong": len(wrong),
    }
    row |= {"targets": results}
    if options.scale >= 1 and options.target is None:
        with ROWS.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(row) + "\n")
    print(f"{total} inputs, {len(wrong)} wrong")
    for result in results.values():
        print("\n".join(result["wrong"][:10]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
