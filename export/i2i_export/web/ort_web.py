"""ONNX Runtime for browsers: the npm package `onnxruntime-web`, from a folder, the user's cache or npm."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import onnxruntime
from platformdirs import user_cache_path

from i2i_export.errors import ExportError
from i2i_runtime.files import reason_of, sha256_of_file, write_whole

VERSION = "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Of the package file of this version."""

_MODULES = {
    "dist/ort.wasm.min.mjs": "ort.wasm.min.js",
    "dist/ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    "dist/ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
    "dist/ort.webgpu.min.mjs": "ort.webgpu.min.js",
    "dist/ort-wasm-simd-threaded.asyncify.mjs": "ort-webgpu.js",
    "dist/ort-wasm-simd-threaded.asyncify.wasm": "ort-webgpu.wasm",
    "package.json": "package.json",
}
"""File in the package -> file in the site. Many web servers give `.mjs` a type that browsers refuse, so it is `.js`."""
_LICENCES = ("LICENSE", "ThirdPartyNotices.txt")


def ort_web_files(folder: Path | None) -> dict[str, Path]:
    """Name in the site -> file, for the scripts, the WebAssembly and the licence.

    `folder` is the package's own folder (`node_modules/onnxruntime-web`); if None, the package comes from the user's
    cache or from npm. Raises ExportError.
    """
    package = folder or _cached_package()
    files = {name: package / inside for inside, name in _MODULES.items()}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise ExportError(
            f"{package} is not the folder of onnxruntime-web {VERSION} ({missing[0]} is missing): "
            f"name node_modules/onnxruntime-web after `npm install onnxruntime-web@{VERSION}`."
        )
    # The npm package carries no licence file; the Python package is built from the same source and has both.
    ours = Path(onnxruntime.__file__).parent
    for name in _LICENCES:
        candidates = (package / name, ours / name)
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise ExportError(
                f"{name} of ONNX Runtime is missing from {ours} and {package}: copy it from the release of "
                "ONNX Runtime into one of them, because a site may not be published without it."
            )
        files[name] = found
    return files


def _cached_package() -> Path:
    package = user_cache_path("i2i-stream") / f"onnxruntime-web-{VERSION}"
    if not all((package / inside).is_file() for inside in _MODULES):
        _fetch(package)
    return package


def _fetch(package: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            "--web needs onnxruntime-web, and npm, which fetches it, is not installed: install Node.js, or name the "
            f"package's folder with --ort-web (made elsewhere by `npm install onnxruntime-web@{VERSION}`)."
        )
    with tempfile.TemporaryDirectory(prefix="i2i-web-") as folder:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", folder, "--silent"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
            )
            reason = next(iter(done.stderr.strip().splitlines()[::-1]), f"exit code {done.returncode}")
        except subprocess.TimeoutExpired:
            reason = "it did not end within 300 s"
        archives = list(Path(folder).glob("*.tgz"))
        if len(archives) != 1:
            raise ExportError(
                f"npm could not fetch onnxruntime-web {VERSION} ({reason}): check the network, or name the "
                "package's folder with --ort-web."
            )
        if sha256_of_file(archives[0]) != SHA256:
            raise ExportError(
                f"npm gave another onnxruntime-web {VERSION} than the one that this version was tested with (its "
                "SHA-256 differs): name a folder that you trust with --ort-web."
            )
        try:
            with tarfile.open(archives[0]) as archive:
                for inside in _MODULES:
                    member = archive.extractfile(f"package/{inside}")
                    assert member is not None, inside
                    write_whole(package / inside, member.read())
        except (OSError, KeyError, tarfile.TarError) as error:
            raise ExportError(
                f"onnxruntime-web cannot be kept in {package} ({reason_of(error)}): free space, or name the "
                "package's folder with --ort-web."
            ) from error
