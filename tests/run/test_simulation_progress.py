"""What a long simulation shows while it runs, and that a short one shows nothing."""

import json
import re

import pytest

from run import simulation_progress
from tests.run.runs import on_a_terminal, run

FAR = {
    "--Nperiod 3": r"([\d.]+)/3 periods",
    "--duration 20": r"([\d.]+)/20 units of time",
    "--steps 4000": r"(\d+)/4000 steps",
    "--steps 4000 --guard --energy-threshold 1e-9": r"(\d+)/4000 steps",
}


@pytest.mark.parametrize("end", FAR)
def test_lines_where_there_is_no_terminal(end, tmp_path, monkeypatch):
    """How far the last orbit is, how many are on their way, and the largest error of those."""
    monkeypatch.setattr(simulation_progress, "LINE_EVERY", 0.05)
    seen = run(tmp_path, "simulate", "--eps", "0.003", "--multi-orbit-sim", "--num-orbits", "3", *end.split())
    first, *lines, last = seen.err.splitlines()
    assert first.startswith("simulating")
    assert last.startswith("median")
    assert len(lines) >= 2
    form = FAR[end] + r"  (\d) of 3 orbits running  largest \|dE/E\| (\S+)  \d+ s"
    shown = [re.fullmatch(form, line) for line in lines]
    assert all(shown), lines
    far = [float(one[1]) for one in shown]
    assert 0 < far[0] < far[-1] <= float(end.split()[1])
    assert all(0 < float(one[3]) <= 1.1 * seen.report["max_rel_dE"] for one in shown)


def test_orbits_that_failed_or_ended_are_not_running(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation_progress, "LINE_EVERY", 0.05)
    flags = "--eps 0.003 --multi-orbit-sim --num-orbits 8 --duration 12 --e-min 0.1 --e-max 0.99"
    seen = run(tmp_path, "simulate", *flags.split())
    running = [int(count) for count in re.findall(r"(\d) of 8 orbits running", seen.err)]
    assert running[0] == 8
    assert running == sorted(running, reverse=True)
    assert running[-1] < 8


def test_a_bar_on_a_terminal(tmp_path):
    """It is gone when the simulation is over, and never gets into the JSON."""
    out, text = on_a_terminal(tmp_path, "simulate", "--eps", "0.001", "--steps", "60000")
    assert json.loads(out)["steps"] == 60000
    assert re.search(r"\d+/60000 steps \S*━\S* 1 of 1 orbits running  largest \|dE/E\| \S+  [2-9] s", text), text
    assert text.rindex("\x1b[2K") < text.rindex("median max")


def test_a_short_simulation_shows_nothing(tmp_path):
    out, text = on_a_terminal(tmp_path, "simulate", "--steps", "100")
    assert json.loads(out)["steps"] == 100
    assert len(text.splitlines()) == 2
