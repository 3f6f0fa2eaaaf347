"""The table of one checkpoint beside the baselines, as its command prints it."""

import subprocess
import sys

import pytest

from core.checkpoint import save_model
from core.evaluation import COLUMNS, main
from core.held_out import held_out
from core.reference import phase_error
from core.timestep import Dynamical
from core.trainer import Trainer
from core.work_precision import BASELINES
from tests.trainings import small, train
from tests.work_precision import short_baselines


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of two bodies, hardly trained, with a rule of its own."""
    trainer = Trainer([small(step_rule="reversible", eval_periods=(1,), steps_per_epoch=16)])
    train(trainer, 2)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(path, trainer)
    return path


@pytest.fixture(autouse=True)
def short_curves(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "evaluation"))
    short_baselines(monkeypatch)


def cells(text):
    """Rows of the printed tables, by their first column."""
    names = ["model", *sorted(BASELINES, key=len, reverse=True)]
    found = {}
    for line in text.splitlines():
        name = next((name for name in names if line.startswith(name)), None)
        if name:
            found.setdefault(name, []).append(line.removeprefix(name).split())
    return found


def test_the_table_holds_the_model_and_every_baseline(model, capsys):
    assert main(["--model-path", str(model), "--periods", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "validation: 32 systems of 2 bodies over 1 period, reversible steps" in out
    found = cells(out)
    assert set(found) == {"model", *BASELINES}
    assert len(found["model"]) == 2
    assert len(found["model"][0]) == len(COLUMNS)
    # Baselines stand at the model's own error, and the dynamical criterion gains nothing on itself.
    assert float(found["dynamical"][0][0]) == pytest.approx(float(found["model"][0][0]), rel=0.06)
    assert float(found["dynamical"][0][2]) == pytest.approx(1, abs=0.02)
    # The oracle is measured over the shortest horizon only.
    assert len(found["dynamical"]) == 2
    assert len(found["oracle"]) == 1


@pytest.mark.parametrize("words", [["flyby"], ["mass_ratio"], ["e_min=0.1", "e_max=0.2"]], ids=str)
def test_systems_that_the_model_was_not_trained_for(words, model, capsys):
    assert main(["--model-path", str(model), "--set", *words]) == 0
    out = capsys.readouterr().out
    assert set(cells(out)) == {"model", *BASELINES}
    phase = [key for key, _, _ in COLUMNS].index("phase_error")
    assert 0 < float(cells(out)["model"][0][phase]) < 1e3


def test_phases_of_three_bodies_are_compared_with_ias15():
    """Of second order in the step; the kicks of close encounters aside, which the median does not see."""
    systems = held_out(small(), "three_body")
    config = small()
    coarse, fine = (phase_error(Dynamical(eps), config, systems) for eps in (0.004, 0.002))
    assert 2.5 < coarse / fine < 10
    assert fine < 0.1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--model-path", "nowhere.pt"], "nowhere.pt"),
        (["--model-path", "{model}", "--set", "flybys"], "did you mean `flyby`?"),
        (["--model-path", "{model}", "--set", "e_max=2"], "e_max"),
        (["--model-path", "{model}", "--set", "three_body", "e_max=0.3"], "`e_max` of --set does not act on systems"),
        (["--model-path", "{model}", "--set", "flyby", "e_max=0.7"], "`e_max` of --set does not act on flybys"),
        (["--model-path", "{model}", "--set", "pos_scale=2"], "`pos_scale` of --set does not act on systems of 2"),
        (["--model-path", "{model}", "--periods", "0"], "the value is 0, but must be a whole number from 1 to"),
        (["--model-path", "{model}", "--periods", "9" * 20], "but must be a whole number from 1 to"),
        ([], "--model-path"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(arguments, problem, model, tmp_path):
    command = [sys.executable, "-m", "core.evaluation", *(word.format(model=model) for word in arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
