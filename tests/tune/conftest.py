"""A tiny search space, to be changed by each test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune.space import Space, load_space

TINY = """\
question: Does the search work?
parameters:
  energy_threshold: {float: [1e-4, 1e-3], log: true}
  history_len: {int: [0, 3], when: {feature_type: {delta_mag: [1, 3]}}}
  feature_type: {choice: [basic, rich, delta_mag]}
  lr: {float: [1e-3, 1e-2], log: true}
fixed: {hidden_dims: [16], n_steps: 1, dropout: 0.0, dt_scale: pair, bounds_relative: true, weight_decay: 0.0,
        epochs: 4, evaluate_every: 1, eval_periods: [1], num_orbits: 2, max_retrain_steps: 20, replay_steps: 20,
        replay_batch_size: 16}
trials: 6
resources: {cpu: 1, gpu: 0.25}
scheduler: {name: asha, min_resource: 1, reduction_factor: 2}
sampler: {name: tpe, n_startup_trials: 2}
seed: 3
"""

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def write_space(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny space, changed by a function of its mapping, to a file."""

    def write(change: Change | None = None, name: str = "tiny.yaml") -> Path:
        values = load_values()
        if change is not None:
            change(values)
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_space(write_space: Callable[..., Path]) -> Space:
    return load_space(write_space())


def load_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(TINY)
    for key in ("energy_threshold", "lr"):  # PyYAML's own loader reads 1e-4 as a word
        values["parameters"][key]["float"] = [float(x) for x in values["parameters"][key]["float"]]
    return values
