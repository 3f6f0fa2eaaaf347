"""What a search shows in a terminal, and where its words go without one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.errors import UserError
from tests.terminal import Terminal
from tune.command_line import parse
from tune.output import Output
from tune.progress import Progress

ROOT = Path(__file__).parents[2]

#: A busy search: 40 trials run, 24 parameters are chosen; a line stays when a trial has failed.
BUSY = """
import sys
sys.path.insert(0, sys.argv[1])
from rich.console import Console
from tune.progress import Progress
best = ["trial 3, work_gain 1.234, rel_dE 3.3e-03", ", ".join(f"parameter_{n:02d} 0.{n:04d}" for n in range(24))]
with Progress("trial", 64, Console()) as progress:
    for number in range(44):
        progress.advanced(str(number), 0)
        progress.advanced(str(number), 20, "work_gain 1.023, rel_dE 4.1e-03")
    progress.ended("0", "COMPLETE", 40, "work_gain 1.1", best)
    progress.ended("1", "PRUNED", 20, "", best)
    progress.ended("2", "PRUNED", 20, "", best)
    progress.ended("3", "FAIL", 20, "", best, "the loss was not finite 10 times in a row")
    sys.stdin.read()
print("over")
"""


def program(source: str) -> list[str]:
    return [sys.executable, "-c", source, str(ROOT)]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 12), (100, 60)])
def test_the_live_view_fits_the_terminal(tmp_path: Path, columns: int, rows: int) -> None:
    terminal = Terminal(program(BUSY), tmp_path, columns, rows)

    def drawn(lines: list[str]) -> bool:
        return bool(lines) and (lines[-1].endswith(" more") if rows < 60 else "trial 43" in lines[-1])

    for _ in range(4):  # a view that is too high would leave a copy of itself at each refresh
        terminal.watch(drawn)
        terminal.read(1)
    terminal.write("xx")  # as the ^C of a Ctrl-C does, it stands behind what is drawn
    for _ in range(4):
        terminal.read(1)
    lines = terminal.watch(drawn)
    (top,) = [index for index, line in enumerate(lines) if line.startswith("trials ")]
    assert "finite 10 times in a row)" in lines[top - 1]
    labels = [line.split(maxsplit=1)[0] for line in lines[top:] if not line.startswith(" ")]
    assert [label for label in labels if label.isalpha()] == ["trials", "time", "best", "now"]
    assert len(lines) <= rows
    running = [line for line in lines if "epoch 20" in line]
    if rows < 60:
        assert lines[-1].endswith(f" and {40 - len(running)} more")
    else:
        assert len(running) == 40
    assert "1 done, 40 running, 2 stopped, 1 failed of 64" in " ".join(map(str.strip, lines[top:]))
    if columns == 80:
        assert any(line == "best     trial 3, work_gain 1.234, rel_dE 3.3e-03" for line in lines)
        assert any(line.endswith("trial 5, epoch 20, work_gain 1.023, rel_dE 4.1e-03") for line in lines)
    terminal.write("\x04\x04")  # the end of what is typed, twice: once for the line
    assert terminal.finish() == 0
    # The view is gone, what was said has stayed (where it is very low, above the screen).
    assert terminal.seen[-1] == "over"
    assert not any(line.startswith(("trials ", "now ")) for line in terminal.seen)
    if rows >= 24:
        assert "10 times in a row)" in terminal.seen[-2]


def test_a_search_in_a_terminal_shows_its_best_while_it_runs(write_space: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tune.search", "--space", str(write_space(longer))]
    command += ["--max-concurrent", "1", "--no-dashboard"]
    terminal = Terminal(command, tmp_path)
    lines = terminal.watch(lambda lines: any(line.startswith("best     trial ") for line in lines))
    view = {line[:9].strip(): line[9:] for line in lines if line[:9].strip() in ("trials", "time", "best", "now")}
    assert " of 3" in view["trials"]
    assert "epochs a minute" in view["time"]
    assert "work_gain" in view["best"]
    assert view["now"].startswith(("trial ", "starting"))  # between two trials there is none for a moment
    assert terminal.finish() == 0
    assert "".join(terminal.seen).replace(" ", "").endswith("--Nperiod10")  # a long command fills more than a line
    assert not any(line.startswith("now ") for line in terminal.seen)


def longer(values: dict[str, Any]) -> None:
    values["fixed"] |= {"epochs": 12, "num_orbits": 8}
    values |= {"trials": 3, "scheduler": "none"}


@pytest.mark.parametrize(
    ("quiet", "as_json", "output", "errors"),
    [
        (False, False, "plan result ", ""),
        (True, False, "result ", ""),
        (False, True, "", "plan result "),
        (True, True, "", ""),
    ],
)
def test_words_and_result_go_where_they_belong(
    quiet: bool, as_json: bool, output: str, errors: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = Output(quiet=quiet, as_json=as_json)
    with words.running():
        print("plan", end=" ")
        with words.ending():
            print("result", end=" ")
        words.result({"best": {"rel_dE": float("nan")}})
    seen = capsys.readouterr()
    assert seen.err == errors
    if as_json:
        assert json.loads(seen.out) == {"best": {"rel_dE": None}}
    else:
        assert seen.out == output


def test_without_a_terminal_a_long_silence_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("tune.progress.time.monotonic", lambda: now[0])
    with Progress("trial", 3, Console(force_terminal=False), {"COMPLETE": 1}) as progress:
        progress.advanced("1", 0)
        now[0] = 50.0
        progress.advanced("1", 10)
        now[0] = 70.0
        progress.advanced("1", 14)
        now[0] = 140.0
        progress.ended("1", "PRUNED", 28, "work_gain 0.9", ["trial 0, work_gain 1.1"])
    first, last = capsys.readouterr().out.splitlines()
    assert first == (
        "[1:10] 1 done, 1 running, 0 stopped, 0 failed of 3 | best: none yet | time left not known yet"
    )
    assert last == (
        "[2:20] trial 1 stopped at epoch 28, work_gain 0.9 | 1 done, 0 running, 1 stopped, 0 failed of 3 | "
        "best: trial 0, work_gain 1.1 | about 4:40 left, 0.43 trials and 6 epochs a minute"
    )


def test_no_time_is_left_beyond_the_budget(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tune.progress.time.monotonic", lambda: now[0])
    with Progress("trial", 30, Console(force_terminal=False), budget=200.0) as progress:
        progress.advanced("0", 0)
        now[0] = 70.0
        progress.advanced("0", 10)
        now[0] = 90.0
        progress.ended("0", "COMPLETE", 20, "", [])
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("| at most 2:10 left")
    assert "| about 1:50 left, " in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quiet", "--verbose"], "not allowed with argument --quiet"),
        (["--wandb-project", "mine"], "--wandb-project does nothing without --wandb"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(["--space", "quick", *arguments])
