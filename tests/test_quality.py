"""Rules of the code base that tools can check: lint, types, who imports whom, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 400


def sources(*folders: str) -> list[Path]:
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    return files


def imported(file: Path) -> set[str]:
    """Names of all packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module if node.module and not node.level else "." * node.level)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("tool", [("ruff", "check"), ("mypy",)], ids=" ".join)
def test_tool_has_nothing_to_say(tool):
    result = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("core", {"ray", "optuna", "wandb", "tune", "run"}),
        ("tune", {"run", "rebound"}),
        ("search_spaces", {"core", "tune", "run"}),
    ],
)
def test_who_imports_whom(folder, forbidden):
    offenders = {str(file.relative_to(ROOT)): imported(file) & forbidden for file in sources(folder)}
    assert {file: names for file, names in offenders.items() if names} == {}


def test_core_is_imported_without_the_search_libraries():
    program = (
        "import importlib, pkgutil, sys, core\n"
        "for module in pkgutil.iter_modules(core.__path__): importlib.import_module(f'core.{module.name}')\n"
        "print(sorted({'ray', 'optuna', 'wandb'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_files_are_short():
    folders = [name for name in ("core", "tune", "run", "benchmarks", "tests") if any((ROOT / name).rglob("*.py"))]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources(*folders)}
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}
