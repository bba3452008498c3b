"""Writes the static site. Any web server can serve it; nothing in it is loaded from elsewhere.

DIR/index.html page.css page.js engine.js street.js    the page
DIR/engines/list.json                                  the engines to choose from, each with its metadata
DIR/engines/NAME.onnx
DIR/ort/                                               ONNX Runtime Web and its licence
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from i2i_export.enginefile import read_engine
from i2i_export.errors import ExportError
from i2i_export.web.ort_web import ort_web_files
from i2i_runtime.files import reason_of, write_whole

PAGE = ("index.html", "page.css", "page.js", "engine.js", "street.js")
_LIST = "engines/list.json"


def site_from_engine(engine: Path, site: Path, ort_web: Path | None = None) -> int:
    """Writes the site with this engine, or adds the engine to a site that is there; returns how many it then has.

    An engine of the same file name is replaced. `ort_web` is the folder of the npm package `onnxruntime-web`; fetched
    by npm if None. The list of engines is written last, so that it never names a file that is not complete. Raises
    ExportError.
    """
    if engine.suffix != ".onnx":
        raise ExportError(f"{engine} is not an .onnx file: a browser runs nothing else from here.")
    metadata = read_engine(engine).metadata
    known = _engines_of(site)
    runtime = ort_web_files(ort_web)
    page = files("i2i_export.web") / "page"
    try:
        content = engine.read_bytes()
        for name in PAGE:
            write_whole(site / name, (page / name).read_bytes())
        for name, file in runtime.items():
            write_whole(site / "ort" / name, file.read_bytes())
        write_whole(site / "engines" / engine.name, content)
        entry = {
            "file": engine.name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "metadata": asdict(metadata),
        }
        names = [other["file"] for other in known]
        if engine.name in names:
            known[names.index(engine.name)] = entry
        else:
            known.append(entry)
        write_whole(site / _LIST, json.dumps(known, indent=1).encode())
    except OSError as error:
        raise ExportError(
            f"{site} cannot be written ({reason_of(error)}): free space or choose another folder with --web."
        ) from error
    return len(known)


def _engines_of(site: Path) -> list[dict[str, Any]]:
    """The engines of an existing site; none for a folder that is new or empty. Raises ExportError for any other."""
    try:
        if not site.exists() or (site.is_dir() and not any(site.iterdir())):
            return []
        known = json.loads((site / _LIST).read_text(encoding="utf-8"))
        if not isinstance(known, list) or not all(isinstance(entry["file"], str) for entry in known):
            raise ValueError("it is not a list of engines")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{site} is not empty and not a site of i2i-export ({_LIST}: {reason_of(error)}): name a new folder."
        ) from error
    return known
