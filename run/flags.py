"""The runner's flags, one for each key."""

import argparse
import re
import types
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from core.errors import UserError, nearest
from run.keys import FIELDS, FLAG_ONLY, SHARED_KEYS, SIMULATE_KEYS, TRAIN_KEYS

MODES = ("train", "simulate", "both")
#: Short forms of flags.
SHORT = {"epochs": "-n", "save_name": "-s"}
#: The flags as --help shows them.
GROUPS = {
    "training and simulation": SHARED_KEYS,
    "training": TRAIN_KEYS,
    "simulation": SIMULATE_KEYS,
    "only in the mode both": frozenset(FIELDS) - SHARED_KEYS - TRAIN_KEYS - SIMULATE_KEYS,
}


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
        epilog="A simulation ends by the Nperiod, duration or steps that was given at the highest level (flags, then "
        "[simulate], then the top of the file), whichever of those given there is first; and where none was given, "
        "after the default Nperiod. A training of two bodies ends with scores on held-out orbits, over the shortest "
        "of eval_periods if its reference curves are at hand, for a minute at most; over all of them, however long it "
        "takes, if evaluate_every or eval_periods is given. Standard output is one JSON object, everything "
        "else goes to standard error.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser._negative_number_matcher = re.compile(r"-\.?\d.*")  # argparse's own takes -1e-3 for a flag
    parser.add_argument("mode", nargs="?", metavar="MODE", help="train, simulate, or both: train, then simulate it")
    for title, keys in GROUPS.items():
        group = parser.add_argument_group(title)
        for key, field in FIELDS.items():
            if key in keys:
                _add(group, key, field)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad usage is bad input like any other: one line, no usage text."""
        raise UserError(f"{message}; --help lists the flags.")


def _add(parser: argparse._ArgumentGroup, key: str, field: FieldInfo) -> None:
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
    if not name.startswith("-"):
        raise UserError(f"The argument {argument} belongs to no flag.")
    options = [option for action in parser._actions for option in action.option_strings]
    raise UserError(f"The flag {name} is unknown{nearest(name, options) or '; --help lists the flags.'}")
