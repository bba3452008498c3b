"""The rules of the house: who may import whom, what ships, what the READMEs promise."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
READMES = sorted(
    p
    for pattern in (
        "*.md",
        ".github/*.md",
        ".docs/**/*.md",
        "trainer/**/*.md",
        "runtime/**/*.md",
        "kernels/**/*.md",
        "export/**/*.md",
    )
    for p in ROOT.glob(pattern)
)
SOURCES = sorted(
    p for room in ("trainer", "runtime", "kernels", "export", "tests") for p in (ROOT / room).rglob("*.py")
)
TOP_LEVEL = {
    "pyproject.toml", "README.md", "trainer", "runtime", "kernels", "export", "tests",
    "Makefile", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md",
}  # fmt: skip


def test_imports_follow_the_house() -> None:
    result = subprocess.run([BIN / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_runtime_imports_without_training_libraries() -> None:
    program = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "triton", "onnx", "i2i_trainer", "i2i_kernels", "i2i_export"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import i2i_runtime
names = [m.name for m in pkgutil.walk_packages(i2i_runtime.__path__, "i2i_runtime.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10


def test_runtime_imports_without_modules_that_only_unix_has() -> None:
    """As on Windows: `fcntl`, `resource` and their like are imported where they are used, behind a check."""
    program = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

for name in {"fcntl", "resource", "pwd", "grp", "termios"} & set(sys.modules):
    del sys.modules[name]
sys.meta_path.insert(0, Block())
import i2i_runtime
for module in pkgutil.walk_packages(i2i_runtime.__path__, "i2i_runtime."):
    importlib.import_module(module.name)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_hint_installs_the_project_from_an_index() -> None:
    """It is on none: `pip install '.[serve]'` in the project's folder works."""
    texts = [path for path in (*SOURCES, *READMES) if path != Path(__file__)]
    assert not [path for path in texts if "i2i-stream[" in path.read_text()]


@cache
def wheel_names(folder: Path) -> list[str]:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_the_four_packages_and_nothing_else(tmp_path: Path) -> None:
    names = wheel_names(tmp_path)
    tops = {name.split("/")[0] for name in names}
    packages = {"i2i_trainer", "i2i_runtime", "i2i_kernels", "i2i_export"}
    assert packages <= tops
    assert all(top in packages or top.endswith(".dist-info") for top in tops)
    for package in packages:
        assert f"{package}/py.typed" in names
    for engine in ("day2night", "day2night-large", "night2day"):
        assert f"i2i_runtime/models/{engine}.onnx" in names
    assert "i2i_export/web/page/index.html" in names
    assert not any("benchmarks/" in name or "tests/" in name for name in names)


def test_top_level_holds_only_what_the_house_names() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and its checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {line.split("/")[0] for line in tracked.splitlines()}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL


def test_tests_end_although_the_shell_ignores_interrupts() -> None:
    """As `nohup make test &` does: without tests/conftest.py the interrupt of this test never arrives."""
    test = "tests/runtime/test_pipeline.py::test_ctrl_c_ends_soon_and_only_a_recording_is_whole"
    command = [sys.executable, "-m", "pytest", "-q", "-o", "timeout=60", "-p", "no:cacheprovider", test]
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    result = subprocess.run(ignoring, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_no_file_is_past_600_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 600}
    assert not long


def test_no_init_directly_in_a_room_and_no_utils() -> None:
    rooms = [ROOT / room for room in ("trainer", "runtime", "kernels", "export")]
    assert not [room for room in rooms if (room / "__init__.py").exists()]
    assert not [p for p in SOURCES if p.name in {"utils.py", "helpers.py", "misc.py"}]


@pytest.mark.parametrize("readme", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_readmes_lead_somewhere(readme: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", readme.read_text())
    broken = [t for t in targets if "://" not in t and not (readme.parent / t).exists()]
    assert not broken


def test_files_that_contributing_names_exist() -> None:
    named = re.findall(r"`([a-z_0-9]+/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 20
    assert not [path for path in named if not (ROOT / path).exists()]


def test_tests_that_readmes_name_exist() -> None:
    files = [path for path in SOURCES if ROOT / "tests" in path.parents]
    code = "\n".join(path.read_text() for path in files)
    named = {name for readme in READMES for name in re.findall(r"`(test_\w+(?:\.py)?)`", readme.read_text())}
    known = {path.name for path in files} | set(re.findall(r"def (test_\w+)\(", code))
    assert len(named) > 10
    assert not named - known


def commands_of(readme: Path) -> list[str]:
    """Every `i2i-*`, `make` and `python -m i2i_*` line in the shell blocks, continuation lines joined."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", readme.read_text(), re.S)
    lines = [line.strip().removeprefix("$ ") for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"(i2i-\w+|make)\b", line)]


@cache
def help_of(command: tuple[str, ...]) -> str:
    result = subprocess.run(
        [BIN / command[0], *command[1:], "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{' '.join(command)} --help: {result.stderr}"
    return result.stdout


def test_every_command_of_every_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wrong = []
    for readme in READMES:
        for line in commands_of(readme):
            words = shlex.split(line, comments=True)
            where = f"{readme.relative_to(ROOT)}: {line}"
            if words[0] == "make":
                wrong += [f"{where} ({w})" for w in words[1:] if "=" not in w and f"\n{w}:" not in makefile]
                continue
            text = help_of((words[0],))
            sub = next((w for w in words[1:] if not w.startswith("-")), "")
            if (
                words[0] == "i2i-train"
                or f"{words[0]} {sub} " in text
                or re.search(rf"^\s*│?\s*{sub}\b", text, re.M)
            ):
                text += (
                    help_of((words[0], sub))
                    if sub and re.fullmatch(r"[a-z0-9-]+", sub) and sub in text
                    else ""
                )
            flags = [w.split("=")[0] for w in words[1:] if re.match(r"--?[a-zA-Z]", w)]
            wrong += [
                f"{where} ({flag})"
                for flag in flags
                if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text)
            ]
    assert not wrong
