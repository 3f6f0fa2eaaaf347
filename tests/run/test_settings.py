"""Where a value comes from: defaults < top of the TOML file < the mode's section < flags."""

import pytest

from run.flags import flag, make_parser, parse
from run.keys import FIELDS
from run.settings import gather
from tests.run.runs import TINY, refusal, run


def settings(folder, text, *arguments):
    """Settings of each mode, from a file with ``text`` and flags."""
    (folder / "run.toml").write_text(text)
    return gather(parse([*arguments, "--config", str(folder / "run.toml")]))


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("", "", 1e-4),
        ("lr = 2e-3", "", 2e-3),
        ("lr = 2e-3\n[train]\nlr = 3e-3", "", 3e-3),
        ("lr = 2e-3\n[train]\nlr = 3e-3", "--lr 4e-3", 4e-3),
        ("lr = 2e-3\n[train]\nlr = 3e-3", "--lr=1e-4", 1e-4),  # an explicit flag wins even when it is the default
        ("[simulate]\nsteps = 3", "", 1e-4),
    ],
)
def test_the_highest_level_wins(text, flags, expected, tmp_path):
    assert settings(tmp_path, text, "train", *flags.split())["train"].config().lr == expected


def test_sections_belong_to_their_modes(tmp_path):
    text = "seed = 1\nepochs = 7\n[train]\nseed = 2\n[simulate]\nseed = 3\nsteps = 5\n"
    both = settings(tmp_path, text, "both", "--e-max", "0.7")
    assert (both["train"].value("seed"), both["simulate"].value("seed")) == (2, 3)
    assert (both["train"].value("epochs"), "epochs" in both["simulate"]) == (7, False)
    assert both["train"].value("e_max") == both["simulate"].value("e_max") == 0.7
    assert settings(tmp_path, text, "simulate")["simulate"].value("steps") == 5


def test_flags_as_users_type_them():
    keys = parse("train -n 5 -s x --lr=1e-3 --hidden-dims 8 8 --mass 2 --E_lower 1e-7 --no-debug --tf32".split()).keys
    expected = {"epochs": 5, "save_name": "x", "lr": 1e-3, "hidden_dims": [8, 8], "mass": 2, "E_lower": 1e-7}
    assert keys == expected | {"debug": False, "tf32": True}
    assert parse("train -s 007 --external-field-position -1e0 .5".split()).keys == {
        "save_name": "007",
        "external_field_position": [-1.0, 0.5],
    }


def test_every_key_is_a_flag():
    flags = {option for action in make_parser()._actions for option in action.option_strings}
    assert {flag(key) for key in FIELDS} <= flags
    assert {"--E_lower", "--Nperiod", "--history-len", "-n", "-s"} <= flags


REFUSED = {
    "epoch = 3": "The key `epoch` is unknown; did you mean `epochs`?",
    "[trian]\nepochs = 3": "The key `trian` is unknown; did you mean `train`?",
    "[train]\nhistory_length = 3": "The key `history_length` is unknown; did you mean `history_len`?",
    "[simulate]\nstep = 3": "The key `step` is unknown; did you mean `steps`?",
    "[train]\nsteps = 3": "The key `steps` acts on a simulation only; remove it from [train].",
    "train = 3": "The value of `train` is 3, but must be a section: [train].",
    "guard = true": "The key `guard` is a flag only; remove it and give --guard.",
    "epochs = '3'": "The value of `epochs` is '3', but must be a valid integer",
    "epochs = 2.5": "The value of `epochs` is 2.5",
    "hidden_dims = 8": "The value of `hidden_dims` is 8",
    "mass = [1, 'x']": "Number 2 of the values of `mass` is 'x', but must be a valid number",
    "hidden_dims = [0, 8]": "Number 1 of the values of `hidden_dims` is 0, but must be greater than or equal to 1",
    "hidden_dims = []": "The value of `hidden_dims` is [], but must have at least 1 item.",
    '"a b" = 1': "The key `a b` is unknown",
    r'"a\nb" = 1': r"The key `'a\nb'` is unknown",
    "wandb = 'yes'": "The value of `wandb` is 'yes'",
    "history_len = 0\nfeature_type = 'delta_mag'": "feature_type delta_mag needs history_len >= 1",
    "epochs 3": "not a TOML file",
    "[train]\nmomentum = 0.5": "The key `momentum` acts only with optimizer sgd",
    "ic_path = 'nowhere.txt'": "nowhere.txt: there is no such file",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_file_is_one_line_with_its_name(text, tmp_path):
    (tmp_path / "run.toml").write_text(text)
    line = refusal(tmp_path, "train", "--config", "run.toml")
    assert REFUSED[text] in line
    assert line.startswith("run.toml: " if "nowhere" not in text else "nowhere.txt: ")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "run.toml").write_text("Nperiod = 1\n", encoding="utf-8-sig")
    (tmp_path / "two.txt").write_text("1 -0.5 0 0 -0.5\n1 0.5 0 0 0.5\n", encoding="utf-8-sig")
    seen = run(tmp_path, "simulate", "--config", "run.toml", "--ic-path", "two.txt")
    assert (seen.status, seen.report["until"]) == (0, {"Nperiod": 1})


def test_a_missing_file_and_a_folder(tmp_path):
    assert "No such file" in refusal(tmp_path, "train", "--config", "run.toml")
    assert "directory" in refusal(tmp_path, "train", "--config", tmp_path)


@pytest.mark.parametrize(
    ("text", "flags", "until"),
    [
        ("", "", {"Nperiod": 10}),
        ("", "--steps 3", {"steps": 3}),
        ("", "--duration 0.1", {"duration": 0.1}),
        ("", "--steps 3 --Nperiod 10", {"steps": 3, "Nperiod": 10}),  # whichever is first
        ("", "--duration 0.1 --Nperiod 10", {"duration": 0.1, "Nperiod": 10}),
        ("", "--steps -1", {"Nperiod": 10}),
        ("Nperiod = 2", "--steps 3", {"steps": 3}),
        ("steps = 3", "--Nperiod 0.1", {"Nperiod": 0.1}),
        ("duration = 60\n[simulate]\nsteps = 3", "", {"steps": 3}),
        ("Nperiod = 0.1\nsteps = 3", "", {"Nperiod": 0.1, "steps": 3}),
    ],
)
def test_what_ends_a_simulation(text, flags, until, tmp_path):
    (tmp_path / "run.toml").write_text(text)
    report = run(tmp_path, "simulate", "--config", "run.toml", *flags.split()).report
    assert report["until"] == until
    assert report["steps"] <= until.get("steps", report["steps"])


def test_shared_keys_of_the_other_mode_may_stand_at_the_top(tmp_path):
    (tmp_path / "run.toml").write_text("epochs = 3\nmomentum = 0.5\nhistory_len = 5\npos_scale = 2.0\nsteps = 3\n")
    assert run(tmp_path, "simulate", "--config", "run.toml").report["steps"] == 3


def test_both_refuses_before_it_trains(tmp_path):
    for flags in (
        "--model-path x.pt",
        "--integrator-mode analytic",
        "--integrator-mode history",
        "--sim-ic-path nowhere.txt",
        "--save-trajectory x.txt",
        "--use-train-ic --multi-orbit-sim --sim-ic-path nowhere.txt",
    ):
        refusal(tmp_path, "both", *TINY, *flags.split())


def test_both_reads_one_file(tmp_path):
    """n_steps of the top is the training's section's; the simulation takes the model's."""
    (tmp_path / "run.toml").write_text(
        "seed = 1\nn_steps = 10\nhistory_len = 2\nfeature_type = 'basic'\n"
        "[train]\nn_steps = 2\nduration = 100\n[simulate]\nsteps = 5\nmulti_orbit_sim = true\n"
    )
    flags = [word for word in TINY if word != "--n-steps"]
    flags.remove("1")
    seen = run(tmp_path, "both", "--config", "run.toml", *flags)
    assert seen.status == 0, seen.err
    simulated = seen.report["simulate"]
    assert (simulated["integrator_mode"], simulated["n_steps"], simulated["num_orbits"]) == ("history", 2, 4)
    assert simulated["model_path"] == seen.report["train"]["last_checkpoint"]
    assert simulated["until"] == {"steps": 5}


def test_the_resolved_config_of_a_training_trains_the_same(tmp_path):
    one = run(tmp_path / "one", "train", *TINY, "--history-len", "2", "--normalize-inputs")
    again = run(tmp_path / "two", "train", "--config", tmp_path / "one/data/run_nbody/config.toml")
    assert again.weights.equal(one.weights)
    assert again.config == one.config
