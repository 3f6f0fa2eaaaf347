"""Ways to run run/runner.py in this process, and what its runs leave behind."""

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.checkpoint import load_model
from run import runner

RUNNER = Path(runner.__file__)
#: A training whose epochs take some hundredths of a second.
TINY = (
    "--hidden-dims 16 16 --n-steps 1 --dropout 0 --dt-scale pair --bounds-relative --lr 3e-3 --weight-decay 0 "
    "--num-orbits 4 --steps-per-epoch 4 --replay-steps 30 --replay-batch-size 32 --max-retrain-steps 200 "
    "--device cpu --epochs 2"
).split()


@dataclass
class Seen:
    """What a run did: exit status, the JSON, standard error, and the folder it ran in."""

    status: int
    report: dict[str, Any]
    err: str
    folder: Path
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> dict[str, Any]:
        """The last epoch's record."""
        return self.model["info"]

    @property
    def config(self) -> dict[str, Any]:
        return self.model["config"]

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([tensor.flatten() for tensor in self.model["model_state_dict"].values()])

    @property
    def start(self) -> dict[str, torch.Tensor]:
        """The initial conditions."""
        return self.model["extra"]["train_ic"]

    @property
    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


def run(folder: Path, *arguments: object) -> Seen:
    """Run in this process, in ``folder``. A refusal has status 2 and an empty report."""
    out, err = io.StringIO(), io.StringIO()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = runner.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(str(stop.code))
        text = out.getvalue()
        report = json.loads(text) if text else {}
        trained = report.get("train", report)
        last = trained.get("last_checkpoint")
        model = load_model(last).content if last else {}
    return Seen(status, report, err.getvalue(), folder, model)


def refusal(folder: Path, *arguments: object) -> str:
    """Run what must be refused, in one line, with status 2 and nothing written; return the line."""
    before = sorted(folder.rglob("*"))
    seen = run(folder, *arguments)
    assert seen.status == 2, (seen.status, seen.err)
    assert seen.report == {}
    assert seen.err.startswith("runner: ")
    assert seen.err.count("\n") == 1, seen.err
    assert sorted(folder.rglob("*")) == before
    return seen.err.removeprefix("runner: ").rstrip("\n")
