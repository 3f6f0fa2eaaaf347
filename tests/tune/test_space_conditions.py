"""Parameters on grids, parameters that exist for some values of others, and plain values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from core.config import Config
from core.errors import UserError
from tune.parameters import FloatParameter, IntParameter, Parameter
from tune.space import Space, load_space
from tune.study import SearchStudy


def changed(write_space: Callable[..., Path], fixed: dict[str, Any] | None = None, **parameters: Any) -> Path:
    """The tiny space with other fixed keys, and with further parameters; None removes one."""

    def change(values: dict[str, Any]) -> None:
        values["fixed"] |= fixed or {}
        for key, entry in parameters.items():
            values["parameters"].pop(key, None)
            values["fixed"].pop(key, None)
            if entry is not None:
                values["parameters"][key] = entry

    return write_space(change)


def drawn(space: Space, count: int = 60) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Parameters of random trials, and what Optuna has of them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask() for _ in range(count)]
    return [(space.draw(trial), trial.params) for trial in trials]


GRIDS: dict[str, tuple[Parameter, list[float]]] = {
    "float": (FloatParameter(float=[0.1, 0.75], step=0.2), [0.1, 0.3, 0.5, 0.7]),
    "float that meets its end": (FloatParameter(float=[0.0, 0.3], step=0.1), [0.0, 0.1, 0.2, 0.3]),
    "negative": (FloatParameter(float=[-0.2, 0.2], step=0.2), [-0.2, 0.0, 0.2]),
    "int": (IntParameter(int=[1, 8], step=3), [1, 4, 7]),
    "log": (FloatParameter(float=[1e-4, 2e-2], log=True, step=10), [1e-4, 1e-3, 1e-2]),
    "log that meets its end": (FloatParameter(float=[1e-4, 1e-1], log=True, step=10), [1e-4, 1e-3, 1e-2, 1e-1]),
    "log of whole numbers": (IntParameter(int=[16, 130], log=True, step=2), [16, 32, 64, 128]),
}


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.filterwarnings("error")
def test_a_grid_is_drawn_whole_and_nothing_else(case: str) -> None:
    parameter, grid = GRIDS[case]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    name, domain = parameter.domain_given({})
    trials = [study.ask() for _ in range(80)]
    found = [parameter.suggest(trial, name, domain) for trial in trials]
    assert sorted(set(found)) == pytest.approx(grid, rel=1e-12, abs=1e-15)
    assert all(type(value) is type(grid[-1]) for value in found)
    for value, trial in zip(found, trials, strict=True):
        assert parameter.contains(domain, value)
        assert parameter.stored(domain, value) == pytest.approx(trial.params[name])
    if parameter.log:  # type: ignore[attr-defined]
        assert {trial.params[".index"] for trial in trials} == set(range(len(grid)))
    assert not parameter.contains(domain, (grid[0] + grid[1]) / 2 + 1e-5)
    tried = parameter.points(domain, cuts=[grid[1]])
    assert all(parameter.contains(domain, value) for value in tried)
    assert sorted(tried)[:: len(tried) - 1] == pytest.approx([grid[0], grid[-1]], abs=1e-15)


def test_a_parameter_exists_only_where_it_acts(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """Elsewhere the config's default holds, and neither Optuna nor the tables know a value."""
    momentum = {"float": [0.5, 0.7], "only": {"optimizer": "sgd"}}
    space = load_space(changed(write_space, optimizer={"choice": ["adam", "adamw", "sgd"]}, momentum=momentum))
    study = SearchStudy(space, tmp_path / "journal", "test")
    proposals = [study.ask() for _ in range(12)]
    assert {proposal.config.optimizer for proposal in proposals} == {"adam", "adamw", "sgd"}
    default = Config.model_fields["momentum"].default
    for proposal, record in zip(proposals, study.records(), strict=True):
        acts = proposal.config.optimizer == "sgd"
        assert ("momentum" in record.parameters) is acts
        assert 0.5 <= proposal.config.momentum <= 0.7 if acts else proposal.config.momentum == default
        assert study.config(record) == proposal.config


def test_conditions_are_chains_in_any_order(write_space: Callable[..., Path]) -> None:
    """fourier_dim needs fourier_scale, which needs rich features, and has another range for one of its values."""
    space = load_space(
        changed(
            write_space,
            fourier_dim={
                "int": [4, 8],
                "only": {"fourier_scale": [0.5, 1.0]},
                "when": {"fourier_scale": {1.0: [16, 32]}},
            },
            fourier_scale={"choice": [-1.0, 0.5, 1.0], "only": {"feature_type": ["rich"]}},
        )
    )
    kinds = set()
    for parameters, names in drawn(space):
        rich, scale = parameters["feature_type"] == "rich", parameters.get("fourier_scale")
        assert ("fourier_scale" in parameters) is rich
        assert ("fourier_dim" in parameters) is (scale in (0.5, 1.0))
        if scale in (0.5, 1.0):
            low, high, name = (16, 32, "fourier_dim.1.0") if scale == 1.0 else (4, 8, "fourier_dim")
            assert low <= parameters["fourier_dim"] == names[name] <= high
        kinds.add((rich, scale))
        assert list(parameters) == [key for key in space.parameters if key in parameters]
    assert kinds == {(False, None), (True, -1.0), (True, 0.5), (True, 1.0)}


def test_a_range_of_whole_numbers_may_be_what_others_depend_on(write_space: Callable[..., Path]) -> None:
    space = load_space(
        changed(
            write_space,
            feature_type={"choice": ["basic", "rich"]},
            history_len={"int": [0, 3]},
            history_warmup={"choice": ["zeros", "analytic"], "only": {"history_len": [1, 2, 3]}},
        )
    )
    found = {(parameters["history_len"] > 0, parameters.get("history_warmup")) for parameters, _ in drawn(space)}
    assert found == {(False, None), (True, "zeros"), (True, "analytic")}


def test_a_plain_value_among_the_parameters_is_fixed(write_space: Callable[..., Path]) -> None:
    space = load_space(changed(write_space, lr=2e-3, hidden_dims=[8, 8], e_max=0.7))
    assert (space.fixed["lr"], space.fixed["e_max"]) == (2e-3, 0.7)
    assert {"lr", "hidden_dims", "e_max"}.isdisjoint(space.parameters)
    assert all(space.config(parameters).hidden_dims == (8, 8) for parameters, _ in drawn(space, 3))
    again = write_space(name="again.yaml")
    again.write_text(space.to_yaml())
    assert load_space(again) == space


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "step of nothing": ({"lr": {"float": [1e-3, 1e-2], "step": 0}}, "`step` is 0, but must be a number > 0"),
    "step is a word": ({"lr": {"float": [1e-3, 1e-2], "step": "x"}}, "`step` is x, but must be a number > 0"),
    "half an int": ({"history_len": {"int": [1, 3], "step": 0.5}}, "`step` is 0.5, but must be a whole number >= 1"),
    "factor one": ({"lr": {"float": [1e-3, 1e-2], "log": True, "step": 1}}, "must be a number > 1 with `log: true`"),
    "fraction of ints": ({"n_steps": {"int": [1, 9], "log": True, "step": 1.5}}, "must be a whole number >= 2 with"),
    "wide step": ({"lr": {"float": [1e-3, 1e-2], "step": 0.1}}, r"\[0.001, 0.01\] must be wide enough for two points"),
    "endless grid": ({"lr": {"float": [1e-3, 1e-2], "step": 1e-30}}, "at most 1e.09"),
    "step of a choice": ({"feature_type": {"choice": ["rich"], "step": 2}}, "`.*step` is 2, but .*has no order"),
    "only of nothing": ({"momentum": {"float": [0.5, 0.9], "only": {}}}, "`only` names no parameter"),
    "only without values": ({"lr": {"float": [0.5, 0.9], "only": {"feature_type": []}}}, r"`only` has \[\] for feat"),
    "only of no parameter": (
        {"momentum": {"float": [0.5, 0.9], "only": {"optimizer": "sgd"}}},
        "`parameters.momentum.only` names `optimizer`, but must name a choice parameter of this space, or one of whole",
    ),
    "only of a float": ({"n_steps": {"int": [1, 2], "only": {"lr": 1e-3}}}, "n_steps.only` names `lr`, but must name"),
    "only of no choice": (
        {"n_steps": {"int": [1, 2], "only": {"feature_type": ["rich", "plain"]}}},
        "`parameters.n_steps.only.feature_type` has plain, but must have choices of feature_type only: basic, rich",
    ),
    "only of no value": (
        {"n_steps": {"int": [1, 2], "only": {"history_len": 7}}},
        r"only.history_len` has 7, but must have values of history_len only: \[0, 3\] or \[1, 3\]",
    ),
    "circle": (
        {
            "feature_type": {"choice": ["basic", "rich", "delta_mag"], "only": {"step_rule": "direct"}},
            "step_rule": {"choice": ["direct", "reversible"], "only": {"activation": "tanh"}},
            "activation": {"choice": ["tanh", "relu"], "only": {"feature_type": "rich"}},
        },
        r"`parameters.feature_type` depends on itself \(feature_type on .* on feature_type\)",
    ),
    "itself": (
        {"step_rule": {"choice": ["direct", "reversible"], "only": {"step_rule": "direct"}}},
        "`parameters.step_rule` depends on itself",
    ),
    "never there": (
        {
            "step_rule": {"choice": ["direct", "reversible"], "only": {"feature_type": "basic"}},
            "n_steps": {"int": [1, 2], "only": {"step_rule": "direct", "feature_type": "rich"}},
        },
        "`parameters.n_steps` is in no trial",
    ),
    "where it does not act": (
        {
            "optimizer": {"choice": ["adam", "sgd"]},
            "momentum": {"float": [0.5, 0.9], "only": {"optimizer": "adam"}},
        },
        "`parameters.momentum` acts only with optimizer sgd, which no trial has",
    ),
    "invalid where it exists": (
        {"history_len": {"int": [0, 3], "only": {"feature_type": ["delta_mag"]}}},
        "`history_len` is 0, but feature_type delta_mag needs history_len >= 1",
    ),
    "plain and unknown": ({"lrr": 1e-3}, "`parameters.lrr` is unknown; did you mean `lr`"),
    "plain and of a run": ({"save_name": "mine"}, "`parameters.save_name` does not act on the trials"),
    "nothing": ({"lr": None, "momentum": {}}, "must have one of the keys"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(case: str, write_space: Callable[..., Path]) -> None:
    parameters, message = BAD[case]
    file = changed(write_space, **parameters)
    with pytest.raises(UserError, match=message) as refusal:
        load_space(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert "\n" not in str(refusal.value)


def test_plain_and_fixed_is_twice(write_space: Callable[..., Path]) -> None:
    file = write_space(lambda values: values["parameters"].update(n_steps=2))
    with pytest.raises(UserError, match="`n_steps` is both under `parameters` and under `fixed`"):
        load_space(file)
