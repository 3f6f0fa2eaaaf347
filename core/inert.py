"""Keys of a config that act only together with others."""

from collections.abc import Callable
from typing import NamedTuple

from core.config import Config


class _Condition(NamedTuple):
    keys: str
    holds: Callable[[Config], bool]
    when: str


_CONDITIONS = (
    _Condition("momentum", lambda config: config.optimizer == "sgd", "with optimizer sgd"),
    _Condition(
        "L_lower L_upper", lambda config: config.angular_momentum_weight > 0, "with angular_momentum_weight > 0"
    ),
    _Condition("fourier_dim", lambda config: config.fourier_scale > 0, "with fourier_scale > 0"),
    _Condition("history_warmup", lambda config: config.history_len > 0, "with history_len > 0"),
    _Condition("tf32", lambda config: config.dtype != "float64", "with dtype float32 or mixed"),
)


def inert_settings(config: Config) -> dict[str, str]:
    """Return the keys that do not act on a training by ``config``, each with the end of "acts only ..."."""
    return {key: one.when for one in _CONDITIONS if not one.holds(config) for key in one.keys.split()}
