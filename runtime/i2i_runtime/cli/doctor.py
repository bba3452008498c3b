"""i2i-doctor: what this machine can do, and for each thing it cannot, why and the command that fixes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from i2i_runtime.doctor import Finding


@dataclass(frozen=True)
class DoctorOptions:
    """Tests back ends, processor, cameras, encoders, GPU, optional parts and the virtual camera. Changes nothing."""

    json: bool = False
    """One JSON object instead of the table."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns 0 if a frame can be translated on this machine, 1 if no back end or no OpenCV works."""
    options = tyro.cli(
        DoctorOptions, prog="i2i-doctor", args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
    )
    from i2i_runtime.doctor import examine
    from i2i_runtime.machine import describe_machine

    findings = examine()
    if options.json:
        report = {"machine": describe_machine(), "findings": [finding.to_dict() for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        _print_table(findings)
    needed = [
        [finding.works for finding in findings if finding.topic == topic] for topic in ("OpenCV", "back end")
    ]
    return 0 if all(any(works) for works in needed) else 1


def _print_table(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from i2i_runtime.console import SafeConsole

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    topic = ""
    for finding in findings:
        mark = Text("yes", "green") if finding.works else Text("no", "yellow")
        text = Text(finding.detail)
        if finding.fix:
            text.append("\nfix:", "bold").append(f" {finding.fix}")
        table.add_row("" if finding.topic == topic else finding.topic, mark, finding.name, text)
        topic = finding.topic
    SafeConsole().print(table)
