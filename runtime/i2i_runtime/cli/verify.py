"""i2i-stream verify: compares a translated video with its source in all but the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from i2i_runtime.uri import parse_uri


@dataclass(frozen=True)
class VerifyOptions:
    """Compares a translated video with its source in all but the pixels; exit code 1 if they differ."""

    source: Annotated[Path, tyro.conf.Positional]
    """The video that was translated."""
    output: Annotated[Path, tyro.conf.Positional]
    """The translated video."""
    report: Path | None = None
    """Writes the checks to this JSON file."""


def main(arguments: Sequence[str]) -> int:
    """The sub-command; returns 0 if the files agree, else 1. Raises SourceError and SinkError."""
    options = tyro.cli(VerifyOptions, prog="i2i-stream verify", args=arguments)
    from rich.table import Table

    from i2i_runtime.console import SafeConsole
    from i2i_runtime.report import write_json
    from i2i_runtime.verify import compare_files

    checks = compare_files(_place(options.source), _place(options.output))
    complete = all(check.agrees for check in checks)
    verdict = "is complete" if complete else "is NOT complete"
    table = Table("", "what", "source", "output", title=f"{options.output} {verdict}")
    for check in checks:
        table.add_row("ok" if check.agrees else "NO", check.name, check.source, check.output)
    SafeConsole().print(table)
    if options.report is not None:
        write_json(options.report, {"whole": complete, "checks": [asdict(check) for check in checks]})
    return 0 if complete else 1


def _place(path: Path) -> Path:
    """The absolute path of a file that may be spelled as an input is (`file:odd:name.mp4`)."""
    uri = parse_uri(str(path))
    return (uri.path if uri.scheme == "file" else path).absolute()
