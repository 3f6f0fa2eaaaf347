"""Spaces: what can be said, and that what cannot be is refused with file, key, value and a fix."""

from collections.abc import Callable
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import optuna
import pytest

from core.config import Config
from core.errors import UserError
from core.pack import RUN_KEYS
from tune.space import Space, find_space, load_space
from tune.space_checks import NOT_SEARCHABLE, corners
from tune.yaml_file import read_mapping


def test_shipped_spaces_ask_a_question_and_every_draw_makes_a_config() -> None:
    names = [entry.name for entry in files("search_spaces").iterdir() if entry.name.endswith(".yaml")]
    assert {"history.yaml", "quick.yaml"} <= set(names)
    for name in names:
        space = load_space(find_space(name))
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        for _ in range(100):
            if space.forbids(drawn := space.draw(study.ask())):
                continue
            config = space.config(drawn)
            assert config.bounds_relative
            assert not (config.feature_type == "delta_mag" and config.history_len == 0)


def test_history_and_quick_ask_the_same_question() -> None:
    history, quick = load_space(find_space("history")), load_space(find_space("quick"))
    assert history.question == quick.question
    assert set(history.parameters) == set(quick.parameters)
    assert history.trials >= 24
    assert history.max_rel_dE == 5e-3


def test_a_conditional_range_has_its_own_name_in_optuna(tiny_space: Space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(30):
        trial = study.ask()
        drawn = tiny_space.draw(trial)
        special = drawn["feature_type"] == "delta_mag"
        name = "history_len.delta_mag" if special else "history_len"
        assert set(trial.params) == {"energy_threshold", "feature_type", "lr", name}
        assert trial.params[name] == drawn["history_len"] >= (1 if special else 0)


def test_a_choice_may_be_a_list(write_space: Callable[..., Path]) -> None:
    def change(values: dict[str, Any]) -> None:
        del values["fixed"]["hidden_dims"]
        values["parameters"]["hidden_dims"] = {"choice": [[8], [8, 8]]}

    space = load_space(write_space(change))
    trial = optuna.create_study().ask()
    assert space.config(space.draw(trial)).hidden_dims in ((8,), (8, 8))
    assert trial.params["hidden_dims"] in ("[8]", "[8, 8]")


def test_one_objective_is_a_list_of_one_and_longer_horizons_have_names(write_space: Callable[..., Path]) -> None:
    assert load_space(write_space()).objectives == ["work_gain"]
    assert load_space(write_space(at("objective", "rel_dE"))).objectives == ["rel_dE"]

    def change(values: dict[str, Any]) -> None:
        values["fixed"]["eval_periods"] = [100, 1]
        values["objectives"] = ["work_gain_100", "rel_dE_100", "violations", "convergence_rate"]

    assert load_space(write_space(change)).objectives[0] == "work_gain_100"


#: A domain for each key of a training that the tiny space does not search already.
DOMAINS: dict[str, dict[str, list[Any]]] = {
    **{key: {"choice": [False, True]} for key in ("bounds_relative", "compile", "detect_anomaly", "normalize_inputs")},
    **{key: {"choice": [False, True]} for key in ("stop_at_period", "tf32")},
    **{key: {"int": [1, 20]} for key in ("fourier_dim", "max_retrain_steps", "min_replay_size", "n_steps")},
    **{key: {"int": [1, 20]} for key in ("num_orbits", "replay_batch_size", "replay_capacity", "replay_steps")},
    **{key: {"float": [0.0, 0.9]} for key in ("dropout", "momentum", "timid_fraction", "weight_decay")},
    **{key: {"float": [0.0, 2.0]} for key in ("angular_momentum_weight", "fourier_scale", "rel_loss_bound")},
    **{key: {"float": [1e-9, 1e-5]} for key in ("E_lower", "dt_bound", "L_lower")},
    **{key: {"float": [0.1, 0.9]} for key in ("E_upper", "L_upper", "eps")},
    "steps_per_epoch": {"int": [1, 20]},
    "activation": {"choice": ["tanh", "relu", "silu"]},
    "dt_scale": {"choice": ["unit", "pair"]},
    "dtype": {"choice": ["float32", "float64"]},
    "hidden_dims": {"choice": [[8], [8, 8]]},
    "history_warmup": {"choice": ["zeros", "analytic"]},
    "optimizer": {"choice": ["adam", "adamw", "sgd", "lbfgs"]},
    "step_rule": {"choice": ["direct", "reversible"]},
}


#: What a key needs in `fixed` to act at all.
NEEDED: dict[str, dict[str, Any]] = {
    **{key: {"angular_momentum_weight": 1.0} for key in ("L_lower", "L_upper")},
    "fourier_dim": {"fourier_scale": 1.0},
    "momentum": {"optimizer": "sgd"},
    "tf32": {"dtype": "float32"},
}


@pytest.mark.parametrize("key", sorted(set(Config.model_fields) - RUN_KEYS - set(NOT_SEARCHABLE)))
def test_every_key_of_a_training_can_be_searched(key: str, write_space: Callable[..., Path]) -> None:
    def change(space: dict[str, Any]) -> None:
        space["fixed"].pop(key, None)
        space["fixed"] |= NEEDED.get(key, {})
        if key == "bounds_relative":
            space["parameters"]["energy_threshold"] = {"float": [0.6, 0.7]}  # within E_upper's either meaning
        if key not in space["parameters"]:
            space["parameters"][key] = DOMAINS[key]

    space = load_space(write_space(change))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = {str(getattr(space.config(space.draw(study.ask())), key)) for _ in range(30)}
    assert len(drawn) >= 2


def test_a_range_may_depend_on_the_step_rule(write_space: Callable[..., Path]) -> None:
    def change(values: dict[str, Any]) -> None:
        del values["fixed"]["n_steps"]
        values["parameters"]["step_rule"] = DOMAINS["step_rule"]
        values["parameters"]["n_steps"] = {"int": [1, 1], "when": {"step_rule": {"reversible": [2, 4]}}}

    space = load_space(write_space(change))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    configs = [space.config(space.draw(study.ask())) for _ in range(30)]
    assert {config.step_rule for config in configs} == {"direct", "reversible"}
    assert all((config.n_steps > 1) == (config.step_rule == "reversible") for config in configs)


def test_momentum_may_be_searched_where_some_trials_use_it(write_space: Callable[..., Path]) -> None:
    def change(values: dict[str, Any]) -> None:
        values["parameters"]["momentum"] = {"float": [0.5, 0.9]}
        values["parameters"]["optimizer"] = {"choice": ["adam", "sgd"]}

    assert "momentum" in load_space(write_space(change)).parameters


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "numbers.yaml"
    file.write_text("a: [1e-4, 1E3, -2e+1, .5e1, 1.5e3, 1e-4s, e4]")
    assert read_mapping(file)["a"] == [1e-4, 1e3, -20.0, 5.0, 1500.0, "1e-4s", "e4"]


def test_the_resolved_space_reads_back_as_itself(tiny_space: Space, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(tiny_space.to_yaml())
    assert load_space(file) == tiny_space


def test_an_existing_file_wins_over_a_shipped_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(files("search_spaces") / "history.yaml")
    assert [str(find_space(name)) for name in ("history", "history.yaml", "spaces/history.yaml")] == [shipped] * 3
    Path("spaces").mkdir()
    Path("spaces/history.yaml").write_text("")
    assert str(find_space("spaces/history.yaml")) == str(tmp_path / "spaces/history.yaml")
    with pytest.raises(UserError, match=r"no such file.*history, .*quick, .*three_body; did you mean `history`"):
        find_space("elsewhere/histroy.yaml")


@pytest.mark.parametrize("name", ["/tmp", "two\nlines", "x" * 300])
def test_a_name_that_cannot_be_a_space_is_one_short_line(name: str) -> None:
    with pytest.raises(UserError, match=r"is a folder; give|There is no search space") as refusal:
        find_space(name)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set one entry of a space; a value of None removes it."""

    def change(values: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            values = values[parent]
        if value is None:
            del values[last]
        else:
            values[last] = value

    return change


#: One of them is none.
MANY = {"choice": [2.0 if n == 499 else n * 1e-3 for n in range(999)]}

BAD = {
    "unknown key": (at("trails", 3), "`trails` is unknown; did you mean `trials`?"),
    "missing key": (at("question", None), "`question` is missing"),
    "a training's key": (at("epochs", 3), "`epochs` is one of a training's, not of a space; write `fixed.epochs`"),
    "unknown parameter": (at("parameters/lrr", {"float": [1, 2]}), "`parameters.lrr` is unknown; did you mean `lr`?"),
    "unknown fixed key": (at("fixed/epoch", 3), "`fixed.epoch` is unknown; did you mean `epochs`?"),
    "key of a run": (at("fixed/save_name", "mine"), "`fixed.save_name` does not act on the trials"),
    "unknown key of a parameter": (
        at("parameters/lr/lgo", True),
        "`parameters.lr.lgo` is unknown; did you mean `log`?",
    ),
    "no factor": (at("parameters/lr/step", 0.1), "its key `step` is 0.1, but must be a number > 1 with `log"),
    "no kind": (at("parameters/lr", {"log": True}), "`parameters.lr` is .*must have one of the keys `float:"),
    "two kinds": (at("parameters/lr/int", [1, 2]), "must have one of the keys"),
    "empty range": (at("parameters/history_len/int", [3, 0]), r"\[3, 0\] must be \[low, high\].*empty"),
    "empty conditional range": (at("parameters/history_len/when/feature_type/delta_mag", [3, 1]), "empty"),
    "one bound": (at("parameters/lr/float", [1e-3]), r"`parameters.lr`: \[0.001\] must be \[low, high\], two numbers"),
    "fractional int": (at("parameters/history_len/int", [0, 2.5]), "two whole numbers"),
    "log from zero": (at("parameters/lr/float", [0, 1e-2]), "above 0 with `log: true`"),
    "infinite range": (at("parameters/lr/float", [1e-3, float("inf")]), "two numbers"),
    "too many choices": (
        at("parameters/lr", {"choice": [n * 1e-6 for n in range(1, 1002)]}),
        r"`parameters.lr`: \[.*\.\.\. must be a list of at most 1,000 values, not 1,001; give a range",
    ),
    "one bad choice of many": (
        lambda values: values["fixed"].pop("dropout") or values["parameters"].update(dropout=MANY),
        "`dropout` is 2.0, but must be less than 1",
    ),
    "a bad combination of many choices": (
        at("parameters/history_len", {"choice": [5, 4, 3, 0, 7, 8, 9, 10, 2, 1]}),
        "feature_type delta_mag needs history_len >= 1",
    ),
    "a choice of dates": (at("parameters/lr", {"choice": [date(2026, 1, 1)]}), "`parameters.lr`: .*2026.* must be a"),
    "a long word": (at("parameters/lr", {"choice": ["x" * 10**5, {}]}), r"`parameters.lr`: \[.x{95}\.\.\. must be"),
    "nothing": (lambda values: values.update(trials=None), "`trials` is empty, but must be a whole number"),
    "an empty word": (at("fixed/activation", ""), "`activation` is empty, but must be 'tanh'"),
    "hyperband of one epoch": (
        at("scheduler", {"name": "hyperband", "max_resource": 1}),
        "`scheduler.max_resource` is 1, but must be greater than or equal to 2, or 'auto'",
    ),
    "choice twice": (at("parameters/feature_type/choice", ["rich", "rich"]), "different values"),
    "when of nothing": (at("parameters/history_len/when", {"lr": {1: [0, 1]}}), "must name a choice parameter"),
    "when of no choice": (at("parameters/history_len/when/feature_type/plain", [0, 1]), "choices of feature_type only"),
    "delta_mag without history": (
        at("parameters/history_len/when", None),
        "`history_len` is 0, but feature_type delta_mag needs history_len >= 1.*`when`",
    ),
    "E_upper above the threshold": (at("fixed/E_upper", 1.5), "`E_upper` is 1.5, but must be <= 1"),
    "out of range": (at("fixed/dropout", 1.5), "`dropout` is 1.5, but must be less than 1"),
    "both searched and fixed": (at("fixed/lr", 1e-3), "`lr` is both under `parameters` and under `fixed`"),
    "another system": (at("parameters/e_max", {"float": [0.7, 0.9]}), "`e_max` cannot be under `parameters`"),
    "seed among the fixed": (at("fixed/seed", 1), "`seed` cannot be under `fixed`"),
    "a line break in a key": (at("fixed/a\nb", 1), r"`fixed.a\\nb` is unknown"),
    "a long key": (at("x" * 10**5, 1), r"The key `xx+ \.\.\. .*, seed"),
    "no trials": (at("trials", 0), "`trials` is 0, but must be greater than or equal to 1"),
    "unknown scheduler": (at("scheduler/name", "asah"), "`scheduler.name` is asah, but must be one of 'asha', "),
    "unknown scheduler option": (at("scheduler/grace", 1), "`scheduler.grace` is unknown; must be one of"),
    "asha without scores on the way": (at("fixed/evaluate_every", 0), "`fixed.evaluate_every` is 0, but must be"),
    "group without multivariate": (at("sampler/multivariate", False), "`group` is true, but multivariate is false"),
    "unknown objective": (at("objective", "speed"), "objective `speed` is unknown; must be one of work_gain, .*rel_dE"),
    "misspelt objective": (at("objectives", ["rel_dE", "work_gian"]), "unknown; did you mean `work_gain`"),
    "objective of no horizon": (at("objective", "work_gain_100"), r"gives work_gain \(1 periods\);.* add 100"),
    "objective of the first horizon": (at("objective", "work_gain_1"), r"gives work_gain \(1 periods\)"),
    "objective without periods": (at("objective", "convergence_rate_1"), "convergence_rate has no periods"),
    "objective twice": (at("objectives", ["work_gain", "work_gain"]), "`work_gain` is there twice"),
    "no exact orbit": (
        lambda values: values.update(objectives=["phase_error"]) or values["fixed"].update(softening=0.1),
        "`phase_error` is not scored here: it needs two point masses",
    ),
    "no objective": (at("objectives", []), r"`objectives` is \[\], but must have at least one entry"),
    "objective is a list": (at("objective", ["rel_dE"]), r"`objective` is \[.*; `objectives` takes a list"),
    "two kinds of objectives": (
        lambda values: values.update(objective="work_gain", objectives=["rel_dE"]),
        "`objective` and `objectives` are both there; remove one",
    ),
    "one seed": (at("confirm", {"top": 3, "seeds": 1}), "`confirm.seeds` is 1, but must be greater than or equal to 2"),
    "unknown key of confirm": (at("confirm", {"tops": 3}), "`confirm.tops` is unknown; did you mean `top`?"),
    "gpu on the cpu": (at("fixed/device", "cpu"), "`fixed.device` is cpu, but `resources.gpu` is 0.25"),
    "no exact orbit of three bodies": (
        lambda values: values.update(objectives=["phase_error"]) or values["fixed"].update(num_particles=3),
        "`phase_error` is not scored here: it needs two point masses",
    ),
    "less than Ray counts": (at("resources/cpu", 1e-9), "`resources.cpu` is 1e-09, but must be greater than or equal"),
    "less GPU than Ray counts": (at("resources/gpu", 1e-9), "`resources.gpu` is 1e-09, but must be 0 or at least"),
    "resources are no mapping": (at("resources", [1]), r"`resources` is \[1\], but must be a mapping"),
    "options without a name": (at("sampler", {"n_startup_trials": 3}), "must have a `name` too, .* `name: tpe`"),
    "a number for a sampler": (at("sampler", 5), "`sampler` is 5, but must be a name or a mapping with a `name`"),
    "no parameters": (at("parameters", {}), "`parameters` is {}, but must have at least one entry"),
    "a horizon twice": (at("fixed/eval_periods", [10, 10]), r"`fixed.eval_periods` is \[10, 10\], but must have each"),
    "no horizon": (at("fixed/eval_periods", []), r"`fixed.eval_periods` is \[\], but must have at least one entry"),
    "a number for a key": (lambda values: values.update({5: 1}), "the key `5` is 5, but must be a word"),
    "a logarithmic choice": (
        at("parameters/feature_type/log", True),
        "`parameters.feature_type.log` is true, but must",
    ),
    "asha that stops nothing": (at("scheduler/min_resource", 9), "`scheduler.min_resource` is 9, but .*below epochs"),
    "momentum of no sgd": (
        at("parameters/momentum", {"float": [0.5, 0.9]}),
        "`parameters.momentum` acts only with optimizer sgd, which no trial has; leave it out",
    ),
    "momentum fixed beside choices without sgd": (
        lambda values: (
            values["fixed"].update(momentum=0.5),
            values["parameters"].update(optimizer={"choice": ["adam", "adamw"]}),
        ),
        "`fixed.momentum` acts only with optimizer sgd",
    ),
    "frequencies of no Fourier features": (at("fixed/fourier_dim", 64), "`fixed.fourier_dim` acts only with fourier"),
    "a gpu and a half": (at("resources/gpu", 1.5), "`resources.gpu` is 1.5, but must be a whole number or a share"),
}


def test_many_choices_are_checked_in_time(write_space: Callable[..., Path]) -> None:
    """As the product of their numbers of values it would take days."""

    def change(values: dict[str, Any]) -> None:
        for key, scale in (("energy_threshold", 1e-6), ("lr", 1e-5), ("weight_decay", 1e-4), ("L_lower", 1e-6)):
            values["parameters"][key] = {"choice": [scale * n for n in range(1, 301)]}
        values["fixed"].pop("weight_decay")
        values["fixed"]["angular_momentum_weight"] = 1.0

    space = load_space(write_space(change))
    tried = list(corners(space))
    assert len(tried) < 10_000
    for key in ("energy_threshold", "lr", "weight_decay", "L_lower"):
        assert {corner[key] for corner in tried} == set(space.parameters[key].domain)


@pytest.mark.parametrize("case", BAD)
def test_bad_space_is_refused_in_one_line(case: str, write_space: Callable[..., Path]) -> None:
    change, message = BAD[case]
    file = write_space(change)
    with pytest.raises(UserError, match=message) as refusal:
        load_space(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert len(str(refusal.value)) < 1000
    assert "\n" not in str(refusal.value)


#: A few lines that mean billions of entries.
BOMB = b"".join(b"k%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1) if n else b"1"] * 9)) for n in range(12))
MERGED = b"".join(
    b"k%d: &a%d {k: 1%s}\n" % (n, n, b", <<: [%s]" % b",".join([b"*a%d" % (n - 1)] * 9) if n else b"")
    for n in range(12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"parameters: [1, 2", "line 1: not valid YAML"),
        (b"a: 1\nb: {c: 2}\na: 3\n", "line 3: not valid YAML: the key `a` is given twice"),
        (b"", "must be a mapping"),
        (b"- 1", "must be a mapping"),
        (b"a: !!python/object/apply:os.getcwd []", "line 1: not valid YAML: could not determine a constructor"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"a: \xff", "not valid YAML: must be UTF-8 text"),
        (b"a: x\0y", r"not valid YAML: it holds a character that YAML does not allow \(U\+0000\); remove it"),
        (b"a: 1\nenqueue: &e [*e]", r"line 2: an alias \(\*\) stands within the entry that it names"),
        (b"a: &a {b: [*a]}", "line 1: an alias .* names; write out what is meant"),
        (b"a: 0x" + b"f" * 400, "line 1: the number 0xff.* is too large; give one of fewer digits"),
        (b"a: " + b"9" * 5000, r"line 1: the number 9{97}\.\.\. is too large"),
        (BOMB, r"line \d+: more than 20,000 entries, each alias \(\*\) counted in full; leave some out"),
        (MERGED, "more than 20,000 entries"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        load_space(file)
    assert "\n" not in str(refusal.value)
