"""Checkpoints: ``model.pt`` is what a simulation needs, ``state.pt`` what a training needs to go on bit for bit.

Both hold plain tensors, numbers and strings only and are read with ``weights_only=True``: opening
one runs no code. Both are written under a temporary name and renamed, so that a reader finds the
old file or the new one, never half of one.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.config import Config
from core.errors import CheckpointError, ConfigError, UserError
from core.features import InputScales
from core.forces import State
from core.history import input_width
from core.orbits import Orbits
from core.timestep import Learned, network_of
from core.trainer import Trainer
from core.whole_file import whole_file

_MODEL_KEYS = (
    "epoch model_state_dict optimizer_state_dict loss info logs extra config config_summary history_len feature_type "
    "dtype"
).split()
_STATE_KEYS = (
    "config weights optimizer generator scales frequencies train_ic systems orbits window buffer counters logs"
).split()


class Model(NamedTuple):
    """A trained model as a file holds it: the step criterion, its config, and everything else in the file."""

    criterion: Learned
    config: Config
    content: dict[str, Any]


def save_model(path: Path | str, trainer: Trainer, lane: int = 0, metrics: dict[str, Any] | None = None) -> None:
    """Write ``model.pt`` of one lane. ``metrics`` (scores, say) go into its ``info`` beside the last epoch's record."""
    held = trainer.lanes[lane]
    last = held.logs[-1] if held.logs else {}
    config = held.config
    content = {
        "epoch": held.epoch,
        "model_state_dict": _weights(trainer, lane),
        "optimizer_state_dict": _optimizer_state(trainer, lane),
        "loss": last.get("loss"),
        "info": {**last, **(metrics or {})},
        "logs": held.logs,
        "extra": {
            "train_ic": held.train_ic._asdict(),
            "scales": held.scales._asdict(),
            "frequencies": trainer.network.own_frequencies(lane).clone(),
        },
        "config": config.to_dict(),
        "config_summary": summary_of(config),
        "history_len": config.history_len,
        "feature_type": config.feature_type,
        "dtype": config.dtype,
    }
    _write(path, content)


def summary_of(config: Config) -> str:
    """Describe a model in a line."""
    return (
        f"{'-'.join(str(width) for width in config.hidden_dims)} {config.activation}, {config.feature_type} with "
        f"history {config.history_len}, dt_scale {config.dt_scale}, energy_threshold {config.energy_threshold:g}"
    )


def load_model(path: Path | str, device: str = "cpu") -> Model:
    """Read ``model.pt``. Raises CheckpointError if it is missing, damaged, foreign, or needs more than plain data."""
    content = _read(path, _MODEL_KEYS, "model")
    with _fitting_together(path, "model"):
        config = _config(path, {**content["config"], "device": device})
        for key in ("history_len", "feature_type", "dtype"):
            held = getattr(config, key)
            if content[key] != held:
                raise _foreign(path, "model", f"`{key}` is {content[key]!r}, but {held!r} in its config")
        network = network_of(config)
        _fill(path, "model", network.named(network.flat[0], 0), content["model_state_dict"])
        network.own_frequencies(0).copy_(content["extra"]["frequencies"])
        return Model(Learned(config, _scales(path, content["extra"]["scales"]), network), config, content)


def train_ic(path: Path | str, model: Model) -> State:
    """Return the systems (M, N, D) that a model from ``path`` was trained on. Raises CheckpointError if damaged."""
    config = model.config
    with _fitting_together(path, "model"):
        held = State(**model.content["extra"]["train_ic"])
        bodies = (config.num_orbits, config.num_particles)
        for name, tensor in held._asdict().items():
            shape = bodies if name == "mass" else (*bodies, config.dim)
            if tensor.shape != shape or not bool(torch.isfinite(tensor).all()):
                raise _foreign(path, "model", f"`{name}` of its train_ic is not {list(shape)} finite numbers")
        return held


def save_state(path: Path | str, trainer: Trainer, lane: int = 0) -> None:
    """Write ``state.pt`` of one lane, between two of its epochs."""
    held, systems = trainer.lanes[lane], trainer.collection.systems[lane]
    content = {
        "config": held.config.to_dict(),
        "weights": _weights(trainer, lane),
        "optimizer": _optimizer_state(trainer, lane),
        "generator": held.generator.get_state(),
        "scales": held.scales._asdict(),
        "frequencies": trainer.network.own_frequencies(lane).clone(),
        "train_ic": held.train_ic._asdict(),
        "systems": None if systems is None else {**systems.state._asdict(), "period": systems.period},
        "orbits": trainer.collection.orbit_tensors(lane),
        "window": trainer.collection.own_window(lane).clone(),
        "buffer": trainer.buffer.lane_state(lane, input_width(held.config)),
        "counters": {
            "epoch": held.epoch,
            "converged_epochs": held.converged_epochs,
            "skips_in_a_row": held.skips_in_a_row,
        },
        "logs": held.logs,
    }
    _write(path, content)


def load_state(path: Path | str, **changes: Any) -> Trainer:
    """Return a trainer of one lane that goes on where :func:`save_state` left off. Raises CheckpointError.

    ``changes`` are config keys that may differ from before, such as ``epochs`` and ``device``.
    """
    content = _read(path, _STATE_KEYS, "state")
    with _fitting_together(path, "state"):
        config = _config(path, {**content["config"], **changes})
        systems = None
        if content["systems"] is not None:
            given = {name: tensor.to(config.torch_device) for name, tensor in content["systems"].items()}
            period = given.pop("period")
            systems = Orbits(State(**given), period)
        trainer = Trainer([config], systems)
        restore_lane(path, trainer, 0, content)
        return trainer


@torch.no_grad()
def restore_lane(path: Path | str, trainer: Trainer, lane: int, content: dict[str, Any]) -> None:
    """Put the content of a ``state.pt`` into a lane of its config."""
    held, network = trainer.lanes[lane], trainer.network
    _fill(path, "state", network.named(network.flat[lane], lane), content["weights"])
    network.own_frequencies(lane).copy_(content["frequencies"])
    _restore_optimizer(path, trainer, lane, content["optimizer"])
    held.generator.set_state(content["generator"])
    held.train_ic = State(**content["train_ic"])
    held.logs = content["logs"]
    for key, value in content["counters"].items():
        setattr(held, key, value)
    trainer.buffer.restore_lane(lane, content["buffer"])
    trainer.rescale(lane, _scales(path, content["scales"]))
    trainer.collection.restore(lane, content["orbits"], content["window"])
    trainer.note_energy(lane)


def _weights(trainer: Trainer, lane: int) -> dict[str, Tensor]:
    named = trainer.network.named(trainer.network.flat[lane], lane)
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}


def _optimizer_state(trainer: Trainer, lane: int) -> dict[str, Any]:
    """The optimizer's state: moments by parameter name at the lane's own width. Empty before the first step."""
    content: dict[str, Any] = {}
    for key, value in trainer.optimizer.state(lane).items():
        if key == "step":
            content[key] = value.clone()
        else:
            named = trainer.network.named(value, lane)
            content[key] = {
                name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in named.items()
            }
    return content


def _restore_optimizer(path: Path | str, trainer: Trainer, lane: int, content: dict[str, Any]) -> None:
    optimizer = trainer.optimizer
    for key, moment in optimizer.moments.items() if content else ():
        _fill(path, "state", trainer.network.named(moment[lane], lane), content[key])
    # Files of SGD did not always say how many steps it took: its kernel asks whether there were any.
    optimizer.steps[lane].copy_(content.get("step", torch.tensor(float(bool(content)))))


def _write(path: Path | str, content: dict[str, Any]) -> None:
    written = io.BytesIO()  # on a full disk torch.save to a file ends in an error of its own, about positions
    torch.save(content, written)
    with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(written.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path | str, keys: list[str], kind: str) -> dict[str, Any]:
    path = Path(path)
    if path.is_dir():
        held = sorted([*path.glob(f"{kind}*.pt"), *path.glob(f"*/{kind}*.pt")])
        example = f", such as {held[-1]}" if held else ""
        raise CheckpointError(f"{path}: it is a folder; give the path of a {kind}.pt{example}.")
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; give the path of a {kind}.pt.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols: the refusal below says it all
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds for a damaged or foreign file
        raise _foreign(path, kind, "it is damaged, or holds more than plain tensors and numbers") from error
    if not isinstance(content, dict):
        raise _foreign(path, kind, "it is not a dictionary")
    missing = [key for key in keys if key not in content]
    if missing:
        raise _foreign(path, kind, f"`{missing[0]}` is missing")
    return content


@contextmanager
def _fitting_together(path: Path | str, kind: str) -> Iterator[None]:
    """Turn what values of a wrong kind or size raise into a CheckpointError."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _foreign(path, kind, f"its content does not fit together: {reason}") from error


def _config(path: Path | str, values: dict[str, Any]) -> Config:
    try:
        return Config.from_mapping(values)
    except UserError as error:
        raise CheckpointError(f"{path}: its config does not fit this version: {error}") from None


def _scales(path: Path | str, values: dict[str, float]) -> InputScales:
    if set(values) != set(InputScales._fields) or not all(0 < value < torch.inf for value in values.values()):
        raise _foreign(path, "model", f"its input scales are {values}, not four positive numbers L, V, A, T")
    return InputScales(**values)


def _fill(path: Path | str, kind: str, targets: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, target in targets.items():
        value = values.get(name) if isinstance(values, dict) else None
        if not isinstance(value, Tensor) or value.shape != target.shape or value.dtype != target.dtype:
            raise _foreign(path, kind, f"`{name}` has not the shape {list(target.shape)} or dtype of its config")
        if not bool(torch.isfinite(value).all()):
            raise _foreign(path, kind, f"`{name}` holds numbers that are not finite")
        with torch.no_grad():
            target.copy_(value)


def _foreign(path: Path | str, kind: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a {kind}.pt of this program ({reason}); give one that a training wrote.")
