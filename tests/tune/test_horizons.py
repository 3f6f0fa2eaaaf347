"""A search whose models are scored over several horizons, beside baselines that not all are measured over each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.checkpoint import save_model
from core.trainer import Trainer
from core.work_precision import BASELINES
from tune.confirmation import Confirmation
from tune.folder import SearchFolder
from tune.search import main
from tune.space import load_space
from tune.study import SearchStudy


def scores(gain: float) -> dict[str, float]:
    of_each = {"work_gain": gain, "rel_dE": 3e-2, "failed_orbits": 0.0, "violations": 0.0, "steps_per_orbit": 99.0}
    return {"convergence_rate": 0.5, **of_each, **{f"{key}_100": value for key, value in of_each.items()}}


def two_horizons(values: dict[str, Any]) -> None:
    values["fixed"] |= {"eval_periods": [10, 100], "device": "cpu"}
    values |= {"trials": 2, "resources": {"cpu": 1}, "scheduler": "none"}
    values |= {"max_rel_dE": 0.1, "confirm": {"top": 1, "seeds": 2}}


def blocks(output: str) -> dict[str, list[str]]:
    """The tables of an output, each a headline and the first words of its rows."""
    found = {}
    for block in output.split("\n\n"):
        headline, *lines = block.splitlines()
        found[headline] = [line.split("  ")[0] for line in lines[1:]]
    return found


def test_each_horizon_has_the_baselines_that_were_measured_over_it(
    write_space: Callable[..., Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = load_space(write_space(two_horizons))
    folder = SearchFolder(here / "results" / "search")
    folder.create(space)
    study = SearchStudy(space, folder.journal, "search")
    for gain in (0.9, 1.2):
        number = study.ask().number
        study.report(number, 4, scores(gain))
        study.finish(number, 4)
    confirmation, trainer = Confirmation(study), Trainer([study.config(study.records()[1])])
    for repeat in (0, 1, 2):  # 0 is the trial itself
        if repeat:
            confirmation.end(1, repeat, 4, scores(1.1), scores(1.3))
        folder.checkpoint(1, repeat).mkdir(parents=True)
        save_model(folder.checkpoint(1, repeat) / "model.pt", trainer, metrics=scores(1.1))

    assert main(["--resume", str(folder.path), "--quiet"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("2 trials: 2 done\n")
    assert printed.splitlines()[-1].startswith("simulate ")
    assert not any(line.startswith(("space", "question", "[")) for line in printed.splitlines())
    tables = blocks(printed)
    over_all = ["dynamical", "prs23", "dynamical, reversible"]
    for name in ("validation", "test"):
        (short,) = (rows for headline, rows in tables.items() if headline.startswith(f"{name} set, 10 periods"))
        (long,) = (rows for headline, rows in tables.items() if headline.startswith(f"{name} set, 100 periods"))
        assert short == ["trial 1", *BASELINES]
        assert [row for row in long if row in over_all] == over_all
        assert "oracle" not in long
    content = json.loads((folder.path / "confirmation.json").read_text())
    assert content["baselines"]["baselines"]["dynamical"]["work_gain_100"] > 0
    assert (folder.path / "report" / "work_precision_100.png").exists()
