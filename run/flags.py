"""The runner's flags, made from the fields of two models: core's Config and the runner's own keys."""

import argparse
import re
import types
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from core.config import NOT_AVAILABLE_YET, Config
from core.errors import UserError, nearest

MODES = ("train", "simulate", "both")
#: Short forms of flags.
SHORT = {"epochs": "-n", "save_name": "-s"}


class RunnerKeys(BaseModel):
    """The runner's own keys, beside those of :class:`core.config.Config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ic_path: str | None = Field(
        None, description="initial conditions: .npy or .txt, rows of m, x.., v.., or .npy of (M, N, columns)"
    )
    use_train_ic: bool = Field(False, description="simulate the systems that the model was trained on")
    multi_orbit_sim: bool = Field(False, description="simulate num_orbits systems in one batch, else one")
    wandb: bool = Field(False, description="log a training to Weights & Biases")
    wandb_project: str = Field("AITimeStepper", min_length=1, description="its project")
    wandb_name: str | None = Field(None, min_length=1, description="the run's name, else save_name, else runner_train")
    # Flags only: they name files of one run, or how it is done.
    config: str | None = Field(None, description="TOML file of keys, with [train] and [simulate] sections")
    resume: str | None = Field(None, description="state.pt of a training that is to go on, bit for bit")
    guard: bool = Field(False, description="redo a step whose rel_dE exceeds energy_threshold with half the dt")
    save_trajectory: str | None = Field(None, description="write the trajectory to this .npz file")
    plot: str | None = Field(None, description="write tracks and errors to this .png file")
    train_ic_path: str | None = Field(None, description="both: --ic-path of the training")
    sim_ic_path: str | None = Field(None, description="both: --ic-path of the simulation")


#: Runner keys that a TOML file may not hold.
FLAG_ONLY = frozenset("config resume guard save_trajectory plot train_ic_path sim_ic_path".split())
#: Every key that a flag is made of, with its field.
FIELDS: dict[str, FieldInfo] = {**RunnerKeys.model_fields, **Config.model_fields}


class CommandLine(NamedTuple):
    """What was typed: the mode, and the keys that were given."""

    mode: str
    keys: dict[str, Any]


def flag(key: str) -> str:
    """Return a key's flag: dashes for underscores, but in names with a capital (--E_lower, --Nperiod)."""
    return f"--{key}" if key != key.lower() else f"--{key.replace('_', '-')}"


def parse(arguments: Sequence[str]) -> CommandLine:
    """Return the mode and the keys that were given. Raises UserError for what cannot be honoured."""
    parser = make_parser()
    known, rest = parser.parse_known_args(arguments)
    given = vars(known)
    mode = given.pop("mode", None)
    if mode not in MODES:
        known_modes = ", ".join(MODES)
        raise UserError(
            f"There is no mode {mode}; give one of {known_modes}." if mode else f"Give a mode: {known_modes}."
        )
    if rest:
        _refuse(next((text for text in rest if text.startswith("-")), rest[0]), parser)
    return CommandLine(mode, {key: _plain(key, value) for key, value in given.items()})


def make_parser() -> argparse.ArgumentParser:
    """Build the parser: one flag for each key, and none of them with a default, so that given ones are told apart."""
    parser = _Parser(
        prog="runner.py",
        usage="%(prog)s {train,simulate,both} [--config FILE.toml] [--flag VALUE ...]",
        description="Train a time step, simulate with it, or both. A value comes from the defaults, the top of the "
        "TOML file, the mode's section of it ([train], [simulate]), or a flag: the last one wins.",
        epilog="A simulation ends with the first of Nperiod, duration and steps among those that were given at the "
        "highest level (flags, then [simulate], then the top of the file); where none was given, after the default "
        "Nperiod. Standard output is one JSON object; everything else goes to standard error.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser._negative_number_matcher = re.compile(r"-\.?\d.*")  # argparse's own takes -1e-3 for a flag
    parser.add_argument("mode", nargs="?", metavar="MODE", help="train, simulate, or both: train, then simulate it")
    for key, field in FIELDS.items():
        _add(parser, key, field)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad usage is bad input like any other: one line, no usage text."""
        raise UserError(f"{message}; --help lists the flags.")


def _add(parser: argparse.ArgumentParser, key: str, field: FieldInfo) -> None:
    names = [flag(key), *([SHORT[key]] if key in SHORT else [])]
    shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    default = "" if shown is None else f" (default: {shown})"
    text = f"{field.description}{default}".replace("%", "%%")
    kinds = _kinds(field.annotation)
    if bool in kinds:
        action: Any = "store_true" if key in FLAG_ONLY else argparse.BooleanOptionalAction
        parser.add_argument(*names, dest=key, action=action, help=text)
        return
    choices = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    words = str in kinds or any(isinstance(value, str) for value in choices)
    if choices:
        metavar = "{" + ",".join(map(str, choices)) + "}"
    else:
        metavar = "FILE" if key.endswith(("path", "config", "resume", "trajectory", "plot")) else "VALUE"
    many = any(get_origin(kind) is tuple for kind in kinds)
    kind = str if words else _number_or_text
    parser.add_argument(*names, dest=key, type=kind, nargs="+" if many else None, metavar=metavar, help=text)


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


def _plain(key: str, value: Any) -> Any:
    """Give a single mass the form of a number; other lists are what Config has them as."""
    return value[0] if key == "mass" and isinstance(value, list) and len(value) == 1 else value


def _refuse(argument: str, parser: argparse.ArgumentParser) -> NoReturn:
    """Say why an argument that the parser does not know cannot be used."""
    name = argument.partition("=")[0]
    later = [flag(key) for key in NOT_AVAILABLE_YET]
    if name in later:
        raise UserError(f"The flag {name} is not available yet in this version; leave it out.")
    if not name.startswith("-"):
        raise UserError(f"The argument {argument} belongs to no flag.")
    options = [option for action in parser._actions for option in action.option_strings]
    raise UserError(f"The flag {name} is unknown{nearest(name, [*options, *later]) or '; --help lists the flags.'}")
