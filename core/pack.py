"""Which trainings may be lanes of one pack, and which keys act on a training's numbers at all."""

import json
from collections.abc import Sequence

from core.config import Config
from core.errors import ConfigError

#: Keys of a run around a training, or of a simulation: they do not act on a training's numbers.
RUN_KEYS = frozenset(
    "Nperiod integrator_mode dt steps duration model_path keep_checkpoints save_name debug debug_every "
    "debug_replay_every movie movie_dir movie_max_frames movie_fps movie_dpi".split()
)
#: Keys in which the lanes of one pack may differ.
LANE_KEYS = RUN_KEYS | frozenset(
    "lr weight_decay energy_threshold E_lower E_upper bounds_relative dt_bound history_len feature_type step_rule "
    "seed epochs "
    "steps_per_epoch max_retrain_steps replay_steps replay_batch_size min_replay_size replay_capacity timid_fraction "
    "num_orbits stop_at_period e_min e_max a_min a_max eval_periods evaluate_every eps momentum rel_loss_bound".split()
)


def pack_key(config: Config) -> str:
    """Return what the lanes of one pack have in common: two configs fit into one if and only if their keys are equal.

    One that :func:`trains_alone` fits with no other, but for itself alone in a pack of one.
    """
    values = config.to_dict()
    return json.dumps({key: value for key, value in values.items() if key not in LANE_KEYS}, sort_keys=True)


#: Keys that a training may have otherwise from some epoch on: they are read at every step and shape nothing.
STEERING_KEYS = frozenset(
    "lr weight_decay momentum energy_threshold E_lower E_upper timid_fraction replay_steps replay_batch_size "
    "max_retrain_steps min_replay_size rel_loss_bound steps_per_epoch".split()
)


def trains_alone(config: Config) -> bool:
    """Whether a training cannot share a pack with others.

    L-BFGS has a line search of its own, and products of one column round differently for one lane and for several.
    """
    return config.optimizer == "lbfgs" or 1 in config.hidden_dims


def check_pack(configs: Sequence[Config]) -> None:
    """Raise ConfigError unless the configs differ in keys of a lane's own only."""
    if not configs:
        raise ConfigError("A trainer needs at least one config.")
    if len(configs) > 1 and trains_alone(configs[0]):
        raise ConfigError(
            f"The value of `optimizer` is {configs[0].optimizer} and that of `hidden_dims` "
            f"{list(configs[0].hidden_dims)}, but a pack needs adam, adamw or sgd and layers "
            "of at least 2; train it alone."
        )
    first = configs[0].to_dict()
    for config in configs[1:]:
        for key, value in config.to_dict().items():
            if key not in LANE_KEYS and value != first[key]:
                raise ConfigError(
                    f"The value of `{key}` is {value!r} in one lane and {first[key]!r} in another, but must be the "
                    "same in all lanes of one pack; train them apart."
                )
