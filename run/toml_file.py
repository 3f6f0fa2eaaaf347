"""TOML files of keys: reading one, and writing resolved values such that --config reads them again."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import ConfigError, nearest
from core.toml_file import to_toml
from core.whole_file import whole_file
from run.flags import flag
from run.keys import FIELDS, FLAG_ONLY

SECTIONS = ("train", "simulate")


class KeyFile(NamedTuple):
    """What a file says: keys at its top, which both modes share, and those of each section."""

    name: str
    top: dict[str, Any]
    sections: dict[str, dict[str, Any]]


def read_keys(path: str | None) -> KeyFile:
    """Read a TOML file; None is an empty one. Raises ConfigError, one line, also for a name that is no key."""
    if path is None:
        return KeyFile("", {}, {})
    try:
        top = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read ({error.strerror}); give the path of a TOML file.") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are
        raise ConfigError(f"{path}: not a TOML file: {str(error).splitlines()[0]}.") from None
    sections = {name: top.pop(name) for name in SECTIONS if name in top}
    _check_names(path, top)
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: The value of `{name}` is {section!r}, but must be a section: [{name}].")
        _check_names(path, section)
    return KeyFile(path, top, sections)


def _check_names(path: str, keys: Iterable[str]) -> None:
    for key in keys:
        if key in FLAG_ONLY:
            raise ConfigError(f"{path}: The key `{key}` is a flag only; remove it and give {flag(key)}.")
        if key not in FIELDS:
            near = nearest(key, [*(known for known in FIELDS if known not in FLAG_ONLY), *SECTIONS])
            shown = key if key.isprintable() else repr(key)
            raise ConfigError(f"{path}: The key `{shown}` is unknown{near or '; --help lists the keys as flags.'}")


def write_keys(path: Path, values: Mapping[str, Any], comment: str) -> None:
    """Write a comment, then keys and values, in order."""
    with whole_file(path) as temporary:
        temporary.write_text(f"# {comment}\n{to_toml(values)}", encoding="utf-8")
