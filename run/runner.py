"""One model without a search: `python run/runner.py simulate --model-path model.pt --num-orbits 8 --multi-orbit-sim`.

Flags are made from the fields of :class:`core.config.Config`. Standard output is one JSON object;
everything else goes to standard error.
"""

import argparse
import json
import math
import os
import re
import statistics
import sys
import time
import types
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, Union, get_args, get_origin

import torch
from torch import Generator

from core.checkpoint import Model, load_model
from core.config import NOT_AVAILABLE_YET, Config
from core.errors import ConfigError, UserError, exit_on_user_error, nearest
from core.orbits import Orbits, draw, forces_of
from core.simulation import Record, simulate
from core.timestep import Criterion, Dynamical

#: Modes, and whether this version has them.
MODES = {"simulate": True, "train": False, "both": False}
#: Seed of a simulation without --seed. A seed that is drawn is below 2^32, so no model has seen these orbits.
SEED = 2**40
#: Keys of the systems that a simulation draws: they default to those of the model, and may differ from them.
SYSTEM_KEYS = frozenset(
    "num_orbits mass pos_scale vel_scale external_field_mass external_field_position e_min e_max a_min a_max "
    "Nperiod seed device".split()
)
#: Keys that act on a simulation without a model, which uses the dynamical criterion.
ANALYTIC_KEYS = SYSTEM_KEYS | {"eps", "num_particles", "dim", "softening", "dtype"}
#: Short forms of flags.
SHORT = {"epochs": "-n"}
#: Flags of the full reference, beside those of NOT_AVAILABLE_YET, that no code acts on yet.
FLAGS_NOT_AVAILABLE_YET = "-s --config --resume --guard --plot --save-trajectory --train-ic-path --sim-ic-path".split()


class Task(NamedTuple):
    """What is simulated: the systems, the criterion, leapfrog steps a proposal, and the model if there is one."""

    config: Config
    orbits: Orbits
    criterion: Criterion
    n_steps: int
    model_path: str | None
    model: Model | None

    @property
    def criterion_summary(self) -> str:
        """The criterion in words."""
        if self.model is None:
            return f"dynamical criterion, eps {self.config.eps:g}"
        return str(self.model.content["config_summary"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status. Bad input is one line on standard error, and status 2."""
    with exit_on_user_error("runner"):
        given = parse(sys.argv[1:] if arguments is None else arguments)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # the tensors are small: more threads wait for each other (measured 4 to 7 times)
        try:
            report = run(prepare(given))
        except KeyboardInterrupt:
            print("runner: interrupted.", file=sys.stderr)
            return 130
        print(summary(report), file=sys.stderr)
        try:
            print(json.dumps(report, indent=2, allow_nan=False), flush=True)
        except BrokenPipeError:  # whoever reads (head, say) has seen enough; Python would flush once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# Flags ---------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad usage is bad input like any other: one line, no usage text."""
        raise UserError(f"{message}; --help lists the flags.")


def flag(key: str) -> str:
    """Return a key's flag: dashes for underscores, but in names with a capital (--E_lower, --Nperiod)."""
    return f"--{key}" if key != key.lower() else f"--{key.replace('_', '-')}"


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the keys that were given on the command line. Raises UserError for what cannot be honoured."""
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    given = vars(known)
    mode = given.pop("mode", None)
    if mode not in MODES:
        mode_list = ", ".join(MODES)
        raise UserError(f"There is no mode {mode}; give one of {mode_list}." if mode else f"Give a mode: {mode_list}.")
    if not MODES[mode]:
        raise UserError(f"The mode {mode} is not available yet in this version; train with python -m tune.search.")
    if rest:
        refuse(next((text for text in rest if text.startswith("-")), rest[0]), parser)
    return given


def refuse(argument: str, parser: argparse.ArgumentParser) -> NoReturn:
    """Say why an argument that the parser does not know cannot be used."""
    name = argument.partition("=")[0]
    later = [*FLAGS_NOT_AVAILABLE_YET, *(flag(key) for key in NOT_AVAILABLE_YET)]
    if name in later:
        raise UserError(f"The flag {name} is not available yet in this version; leave it out.")
    if not name.startswith("-"):
        raise UserError(f"The argument {argument} belongs to no flag.")
    options = [option for action in parser._actions for option in action.option_strings]
    raise UserError(f"The flag {name} is unknown{nearest(name, [*options, *later])}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="runner.py",
        description="Simulate systems with a trained model, or with the dynamical criterion (no --model-path).",
        epilog="Standard output is one JSON object; everything else goes to standard error.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser._negative_number_matcher = re.compile(r"-\.?\d.*")  # argparse's own takes -1e-3 for a flag
    parser.add_argument("mode", nargs="?", help="simulate (train and both are not available yet)")
    parser.add_argument("--model-path", metavar="FILE", help="model.pt of a search or a training")
    parser.add_argument(
        "--multi-orbit-sim", action="store_true", help="simulate num_orbits systems in one batch, else one"
    )
    for key, field in Config.model_fields.items():
        names = [flag(key), *([SHORT[key]] if key in SHORT else [])]
        default = f"simulate: {SEED}" if key == "seed" else field.default
        text = f"{field.description} (default: {default})".replace("%", "%%")
        kinds = _kinds(field.annotation)
        if bool in kinds:
            parser.add_argument(*names, dest=key, action=argparse.BooleanOptionalAction, help=text)
            continue
        many = any(get_origin(kind) is tuple for kind in kinds)
        parser.add_argument(
            *names, dest=key, type=_number_or_text, nargs="+" if many else None, metavar="VALUE", help=text
        )
    return parser


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation allows, unions and Annotated taken apart."""
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    if hasattr(annotation, "__metadata__"):
        return _kinds(annotation.__origin__)
    return {annotation}


def _number_or_text(text: str) -> int | float | str:
    """Read a value as TOML would; whether it suits its key is for Config to say."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# Simulation ----------------------------------------------------------------------------------------


def prepare(given: dict[str, Any]) -> Task:
    """Turn explicit keys into a task. With a model all others come from its checkpoint; none may contradict it."""
    keys = {key: _plain(key, value) for key, value in given.items() if key in Config.model_fields}
    path = given.get("model_path")
    run_keys = {"seed": keys.get("seed", SEED), "device": keys.get("device", "auto")}
    if path is None:
        for key in keys:
            if key not in ANALYTIC_KEYS:
                raise ConfigError(f"The flag {flag(key)} acts on a simulation with --model-path only; leave it out.")
        config = Config.from_mapping(keys | run_keys)
        return Task(config, _draw(config, given), Dynamical(config.eps), 1, None, None)
    device = Config.from_mapping({"device": run_keys["device"]}).torch_device
    model = load_model(path, device.type)
    for key, value in keys.items():
        trained = getattr(model.config, key)
        if key not in SYSTEM_KEYS and value != trained:
            raise ConfigError(
                f"The value of `{key}` is {value!r}, but the model {path} has {trained!r}; leave {flag(key)} out."
            )
    config = Config.from_mapping(model.config.to_dict() | keys | run_keys)
    return Task(config, _draw(config, given), model.criterion, config.n_steps, path, model)


def _draw(config: Config, given: dict[str, Any]) -> Orbits:
    if given.get("multi_orbit_sim"):
        count = config.num_orbits
    else:
        count = 1
        if given.get("num_orbits", 1) != 1:
            print("one system is simulated; add --multi-orbit-sim for num_orbits of them", file=sys.stderr)
    return draw(config, count, Generator().manual_seed(int(config.seed or 0)))


def _plain(key: str, value: Any) -> Any:
    """Give lists the form that Config has them in: tuples, and a single mass a number."""
    if isinstance(value, list):
        return value[0] if key == "mass" and len(value) == 1 else tuple(value)
    return value


def run(task: Task) -> dict[str, Any]:
    """Simulate, and return the report: plain numbers, None where a number is not finite."""
    config, orbits = task.config, task.orbits
    count = len(orbits.period)
    unit = "period" if config.num_particles == 2 else "crossing time"
    print(
        f"simulating {count} x {config.num_particles} bodies for {config.Nperiod:g} {unit}s: {task.criterion_summary}",
        file=sys.stderr,
    )
    began = time.perf_counter()
    with torch.no_grad():
        outcome = simulate(
            orbits.state, task.criterion, forces_of(config), orbits.period, (config.Nperiod,), n_steps=task.n_steps
        )
    wall_time = time.perf_counter() - began
    rows = per_orbit(outcome.records[0], orbits.period)
    return {
        "integrator_mode": "analytic" if task.model is None else "history" if config.history_len else "ml",
        "model_path": task.model_path,
        "model_summary": None if task.model is None else task.criterion_summary,
        "eps": config.eps if task.model is None else None,
        "n_steps": task.n_steps,
        "num_orbits": count,
        "num_particles": config.num_particles,
        "dim": config.dim,
        "unit_of_time": unit,
        "Nperiod": config.Nperiod,
        "seed": config.seed,
        "dtype": config.dtype,
        "device": str(config.torch_device),
        "wall_time_s": wall_time,
        "median_max_rel_dE": _finite(statistics.median(_or_infinite(row["max_rel_dE"]) for row in rows)),
        "median_force_evaluations_per_period": _finite(
            statistics.median(row["force_evaluations"] / max(row["periods"] or 0, 1e-12) for row in rows)
        ),
        "failed_orbits": sum(row["failed"] for row in rows),
        "orbits": rows,
    }


def per_orbit(record: Record, period: torch.Tensor) -> list[dict[str, Any]]:
    """Return one row of plain numbers for each system."""
    columns = {
        "steps": record.steps,
        "force_evaluations": record.force_evaluations,
        "time": record.time,
        "periods": record.time / period,
        "max_rel_dE": record.max_rel_dE,
        "final_rel_dE": record.final_rel_dE,
        "failed": record.failed,
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{name: _finite(value) for name, value in zip(columns, row, strict=True)} for row in values]


def summary(report: dict[str, Any]) -> str:
    """One line for people."""
    return (
        f"median max |dE/E| {_or_infinite(report['median_max_rel_dE']):.3g}, "
        f"{_or_infinite(report['median_force_evaluations_per_period']):.4g} force evaluations a "
        f"{report['unit_of_time']}, {report['failed_orbits']} of {report['num_orbits']} orbits failed, "
        f"{report['wall_time_s']:.2f} s"
    )


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


if __name__ == "__main__":
    sys.exit(main())
