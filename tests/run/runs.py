"""Ways to run run/runner.py in this process, and what its runs leave behind."""

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

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

    def __getitem__(self, name: str) -> Any:
        """Something by its name: of the report, of the last epoch's record, or of the model's config."""
        held = (self.report, self.model.get("info", {}), self.model.get("config", {}))
        return next(values[name] for values in held if name in values)

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

    def lines(self, part: str) -> int:
        """Lines of standard error that hold ``part``."""
        return sum(part in line for line in self.err.splitlines())

    def first(self, name: str) -> Any:
        """A number of the first epoch."""
        return self.model["logs"][0][name]

    def gif(self, name: str) -> dict[str, Any]:
        """Frames, size in dots and milliseconds a frame of a GIF."""
        with Image.open(self.folder / name) as image:
            return {"frames": image.n_frames, "size": image.size, "pause": image.info["duration"]}


Check = Callable[[Seen, Seen], bool]
Get = Callable[[Seen], Any] | str


@dataclass
class Row:
    """Flags that change a key, what must change by them, and flags that both runs have beside a small default."""

    changed: str
    check: Check
    base: str = ""


def _of(seen: Seen, get: Get) -> Any:
    return seen[get] if isinstance(get, str) else get(seen)


def becomes(get: Get, before: Any, after: Any) -> Check:
    """What was ``before`` is ``after`` when the key has changed."""
    return lambda a, b: bool(_of(a, get) == before and _of(b, get) == after)


def differs(get: Get) -> Check:
    """It is something else when the key has changed."""
    return lambda a, b: bool(_of(a, get) != _of(b, get))


def grows(get: Get, factor: float = 1.0) -> Check:
    """It is more than ``factor`` times what it was."""
    return lambda a, b: bool(_of(b, get) > factor * _of(a, get))


def shrinks(get: Get, factor: float = 1.0) -> Check:
    """It is less than ``factor`` times what it was."""
    return lambda a, b: bool(_of(b, get) < factor * _of(a, get))


def all_of(*checks: Check) -> Check:
    """All of the checks hold."""
    return lambda a, b: all(check(a, b) for check in checks)


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


def command(*arguments: object) -> list[str]:
    """The runner as a program of its own."""
    return [sys.executable, str(RUNNER), *map(str, arguments)]


def on_a_terminal(folder: Path, *arguments: object) -> tuple[bytes, str]:
    """Run with a terminal of 100 columns for standard error; return standard output, and what the terminal got."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end of a terminal that was closed
            while piece := os.read(ours, 4096):
                shown.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=theirs, check=False, env=environment
    )
    os.close(theirs)
    reader.join(timeout=5)
    os.close(ours)
    return done.stdout, shown.decode()


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
