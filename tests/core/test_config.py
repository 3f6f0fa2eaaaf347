"""Settings: defaults that depend on others are resolved, and what cannot be honoured is refused in one line."""

import pytest
import torch

from core.config import Config
from core.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "basic"),
        ({"history_len": 3}, "delta_mag"),
        ({"history_len": 3, "feature_type": "rich"}, "rich"),
        ({"feature_type": "rich"}, "rich"),
    ],
)
def test_resolved_config_says_the_feature_type(values, expected):
    config = Config.from_mapping(values)
    assert config.feature_type == config.to_dict()["feature_type"] == expected


def test_energy_band():
    assert Config().energy_band == (1e-6, 1e-4)
    relative = Config(bounds_relative=True, energy_threshold=2e-3)
    assert (relative.E_lower, relative.E_upper) == (0.05, 0.5)
    assert relative.energy_band == pytest.approx((1e-4, 1e-3))


def test_one_mass_is_every_bodys_mass():
    assert Config(num_particles=3, mass=2.0).masses == (2.0, 2.0, 2.0)
    assert Config(num_particles=3, mass=(1.0, 0.0, 2.0)).masses == (1.0, 0.0, 2.0)


def test_dict_of_a_config_makes_the_same_config():
    config = Config(hidden_dims=(64, 64), mass=(1.0, 0.5), history_len=2, eval_periods=(10,))
    plain = config.to_dict()
    assert Config.from_mapping(plain) == config
    assert {type(value) for value in plain.values()} <= {int, float, str, bool, list, type(None)}


def test_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().lr = 1.0  # type: ignore[misc]


def test_dtype_and_device():
    assert Config(dtype="float32").torch_dtype == torch.float32
    assert Config().torch_dtype == torch.float64
    assert Config(device="cpu").torch_device == torch.device("cpu")


def test_missing_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="`device` is cuda, but torch sees no CUDA device here; use auto or cpu"):
        _ = Config(device="cuda").torch_device
    assert Config(device="auto").torch_device == torch.device("cpu")


REFUSED = [
    # a wrong value: key, what was given, what it must be
    ({"epochs": 0}, "epochs", "0", "greater than or equal to 1"),
    ({"n_steps": 0}, "n_steps", "0", "greater than or equal to 1"),
    ({"num_orbits": 0}, "num_orbits", "0", "greater than or equal to 1"),
    ({"num_particles": 1}, "num_particles", "1", "greater than or equal to 2"),
    ({"history_len": -1}, "history_len", "-1", "greater than or equal to 0"),
    ({"max_retrain_steps": -1}, "max_retrain_steps", "-1", "greater than or equal to 0"),
    ({"replay_steps": -1}, "replay_steps", "-1", "greater than or equal to 0"),
    ({"evaluate_every": -1}, "evaluate_every", "-1", "greater than or equal to 0"),
    ({"lr": 0.0}, "lr", "0.0", "greater than 0"),
    ({"lr": float("nan")}, "lr", "nan", "must be"),
    ({"lr": float("inf")}, "lr", "inf", "finite"),
    ({"energy_threshold": -1.0}, "energy_threshold", "-1.0", "greater than 0"),
    ({"dt_bound": 0.0}, "dt_bound", "0.0", "greater than 0"),
    ({"pos_scale": 0.0}, "pos_scale", "0.0", "greater than 0"),
    ({"weight_decay": -0.1}, "weight_decay", "-0.1", "greater than or equal to 0"),
    ({"softening": -0.1}, "softening", "-0.1", "greater than or equal to 0"),
    ({"dropout": 1.0}, "dropout", "1.0", "less than 1"),
    ({"e_max": 1.0}, "e_max", "1.0", "less than 1"),
    ({"e_min": -0.1}, "e_min", "-0.1", "greater than or equal to 0"),
    ({"e_min": float("nan")}, "e_min", "nan", "must be"),
    ({"timid_fraction": 1.5}, "timid_fraction", "1.5", "less than or equal to 1"),
    ({"dim": 4}, "dim", "4", "2 or 3"),
    ({"hidden_dims": []}, "hidden_dims", "[]", "must have at least 1"),
    ({"hidden_dims": [64, 0]}, "hidden_dims", "0", "greater than or equal to 1"),
    # a wrong type
    ({"epochs": 1.5}, "epochs", "1.5", "integer"),
    ({"epochs": True}, "epochs", "True", "integer"),
    ({"lr": "fast"}, "lr", "'fast'", "number"),
    ({"lr": True}, "lr", "True", "number"),
    ({"stop_at_period": 1}, "stop_at_period", "1", "boolean"),
    ({"hidden_dims": 64}, "hidden_dims", "64", "must be"),
    ({"mass": "heavy"}, "mass", "'heavy'", "must be"),
    # a name that does not exist
    ({"optimizer": "adagrad"}, "optimizer", "'lbfgs'", "'adam', 'adamw', 'sgd' or 'lbfgs'"),
    ({"activation": "sine"}, "activation", "'sine'", "'tanh', 'relu' or 'silu'"),
    ({"feature_type": "poor"}, "feature_type", "'poor'", "'basic', 'rich' or 'delta_mag'"),
    ({"dt_scale": "triple"}, "dt_scale", "'triple'", "'unit' or 'pair'"),
    ({"dtype": "float16"}, "dtype", "'float16'", "'float32', 'float64' or 'mixed'"),
    ({"device": "tpu"}, "device", "'tpu'", "must be"),
    # combinations that cannot be
    ({"feature_type": "delta_mag"}, "history_len", "0", "history_len >= 1"),
    ({"E_lower": 1e-3}, "E_lower", "0.001", "must be < E_upper (0.0001)"),
    ({"E_upper": 1e-3}, "E_upper", "0.001", "must be <= energy_threshold (0.0002)"),
    ({"energy_threshold": 1e-5}, "E_upper", "0.0001", "must be <= energy_threshold (1e-05)"),
    ({"bounds_relative": True, "E_upper": 1.5}, "E_upper", "1.5", "must be <= 1"),
    ({"e_min": 0.9, "e_max": 0.5}, "e_min", "0.9", "must be <= e_max (0.5)"),
    ({"a_min": 2.0}, "a_min", "2.0", "must be <= a_max (1.2)"),
    ({"mass": [1.0, 1.0, 1.0]}, "mass", "3 numbers", "must be one number or num_particles (2)"),
    ({"mass": 1e308}, "mass", "1e+308", "must have a finite sum"),
    ({"mass": 0.0}, "mass", "0.0", "must have a positive sum"),
    ({"mass": [1.0, -1.0]}, "mass", "-1.0", "greater than or equal to 0"),
    ({"L_lower": 0.5}, "L_lower", "0.5", "must be < L_upper (0.01)"),
    ({"external_field_mass": 1.0}, "external_field_position", "", "must be given together"),
    ({"external_field_position": [1.0, 0.0]}, "external_field_mass", "", "must be given together"),
    (
        {"external_field_mass": 1.0, "external_field_position": [1.0]},
        "external_field_position", "[1.0]", "must be 2 numbers",
    ),
    (
        {"external_field_mass": 1.0, "external_field_position": [0.0, 0.0]},
        "external_field_position", "[0.0, 0.0]", "not all zero",
    ),
    (
        {"external_field_mass": 1.0, "external_field_position": [1.0, float("nan")]},
        "external_field_position", "nan", "must be",
    ),
    ({"stop_at_period": True, "num_particles": 3}, "stop_at_period", "true", "num_particles is 3"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "key", "given", "rule"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_bad_value_is_refused_with_key_value_and_rule(values, key, given, rule):
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(values, source="space.yaml")
    message = str(caught.value)
    assert message.startswith("space.yaml: ")
    assert "\n" not in message
    assert f"`{key}" in message
    assert given in message
    assert rule in message
    assert "must" in message or "needs" in message or "only" in message
    for inner in ("function-", "constrained", "NonNegative", "pydantic", "tuple["):
        assert inner not in message


@pytest.mark.parametrize(("key", "meant"), [("learning_rate", None), ("histroy_len", "history_len"), ("LR", "lr")])
def test_unknown_key_is_refused(key, meant):
    """Unknown TOML keys passed silently in the prototype."""
    with pytest.raises(ConfigError, match=f"^The key `{key}` is unknown") as caught:
        Config.from_mapping({key: 1})
    assert meant is None or f"did you mean `{meant}`?" in str(caught.value)


def test_reference_is_complete():
    """Every key of the project's reference is a field."""
    reference = (
        "optimizer epochs lr weight_decay momentum n_steps dt_bound rel_loss_bound energy_threshold steps_per_epoch "
        "max_retrain_steps replay_steps replay_batch_size min_replay_size replay_capacity timid_fraction "
        "keep_checkpoints E_lower E_upper L_lower L_upper bounds_relative angular_momentum_weight hidden_dims "
        "activation dropout dt_scale fourier_scale fourier_dim normalize_inputs history_len feature_type "
        "history_warmup integrator_mode dt steps duration Nperiod eps step_rule model_path num_particles dim mass "
        "pos_scale vel_scale softening external_field_mass external_field_position num_orbits stop_at_period e_min "
        "e_max a_min a_max eval_periods evaluate_every device dtype tf32 compile detect_anomaly save_name seed debug "
        "debug_every debug_replay_every movie movie_dir movie_max_frames movie_fps movie_dpi"
    )
    assert set(reference.split()) <= set(Config.model_fields)
    assert all(field.description for field in Config.model_fields.values())
