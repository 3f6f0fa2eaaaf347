"""The benchmark of lanes runs: at a size that says nothing about speed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_benchmark_prints_its_tables():
    command = [sys.executable, "benchmarks/lanes.py", "--quick"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| phase")]
    kinds = [("phase 1", "8"), ("phase 2", "8"), ("phase 2", "32")]
    assert [tuple(row[:3]) for row in rows] == [(*kind, lanes) for kind in kinds for lanes in ("1", "4")]
    assert all(float(row[3]) > 0 for row in rows)
    assert sum(line.startswith(("| 1 |", "| 4 |")) for line in lines) == 2
    assert "Memory of a lane" in lines[-1]
