"""The benchmarks of the search run, at sizes that say nothing about speed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def table(text: str, header: str) -> list[list[str]]:
    """The rows below a header, as cells."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(header))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def run(name: str) -> str:
    command = [sys.executable, f"benchmarks/{name}", "--quick"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_packing_trains_the_same_trials_in_three_ways():
    printed = run("packing.py")
    rows = table(printed, "| arm |")
    arms = [["solo, before", "2"], ["packed", "4"], ["solo, after", "2"], ["plain Optuna, sequential", "2"]]
    assert [row[:2] for row in rows] == arms
    assert all(float(row[4]) > 0 for row in rows)
    assert "are the same in all arms: yes" in printed
    assert "memory of its own: a solo trial" in printed
    assert table(printed, "| tick |")


def test_overhead_ends_every_trial_in_every_way():
    printed = run("overhead.py")
    rows = table(printed, "| |")
    assert [row[1] for row in rows] == ["10", "10", "10", "30"]
    assert all(float(row[2]) > 0 for row in rows)
    assert "a trial costs" in printed
