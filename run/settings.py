"""Where each value comes from: defaults < top of the TOML file < the mode's section < flags.

A key that a mode cannot act on is refused as a flag and in the mode's own section. The top of a
file is shared: keys that only the other mode acts on, or that act only together with others, may
stand there.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NamedTuple

from pydantic import ValidationError

from core.config import Config, one_line
from core.errors import ConfigError, UserError
from core.inert import inert_settings
from run.flags import CommandLine, flag
from run.keys import ACTS_ON, FIELDS, HALF_FLAGS, HALVES, TRAIN_KEYS, RunnerKeys
from run.toml_file import KeyFile, read_keys


class Level(IntEnum):
    """Where a value was given; the highest wins."""

    FILE = 1
    SECTION = 2
    FLAG = 3


class Given(NamedTuple):
    """A value that somebody gave, at which level, and the opening of messages about it (the file's name)."""

    value: Any
    level: Level
    source: str


class Settings(dict[str, Given]):
    """The values that were given for one mode; everything else has its default."""

    def value(self, key: str) -> Any:
        """Return what was given, or the key's default."""
        return self[key].value if key in self else FIELDS[key].default

    def refusal(self, key: str, reason: str) -> ConfigError:
        """Return an error about a key that was given: "file: The key `x` reason."."""
        given = self[key]
        name = f"The flag {flag(key)}" if given.level is Level.FLAG else f"The key `{key}`"
        return ConfigError(f"{given.source}{name} {reason}")

    def without(self, keys: Iterable[str], level: Level = Level.FLAG) -> "Settings":
        """Return the same settings but for ``keys`` that were given at ``level`` or below."""
        dropped = frozenset(keys)
        kept = {key: given for key, given in self.items() if key not in dropped or given.level > level}
        return Settings(kept)

    @contextmanager
    def naming_source(self) -> Iterator[None]:
        """Put the file's name in front of an error about a key that was given in a file."""
        try:
            yield
        except ConfigError as error:
            named = [self[key].source for key in re.findall(r"`(\w+)[`.]", str(error)) if key in self]
            if named and not str(error).startswith(named[0]):
                raise ConfigError(f"{named[0]}{error}") from None
            raise

    def config(self, base: dict[str, Any] | None = None, **fixed: Any) -> Config:
        """Build core's config: ``base`` < given values < ``fixed``."""
        keys = {key: given.value for key, given in self.items() if key in Config.model_fields}
        with self.naming_source():
            return Config.from_mapping((base or {}) | keys | fixed)

    def runner_keys(self) -> RunnerKeys:
        """Build the runner's own keys."""
        keys = {key: given.value for key, given in self.items() if key in RunnerKeys.model_fields}
        with self.naming_source():
            try:
                return RunnerKeys(**keys)
            except ValidationError as error:
                raise ConfigError(one_line(error)) from None


def gather(line: CommandLine) -> dict[str, Settings]:
    """Return the settings of each mode that is to run. Raises UserError for what none of them acts on."""
    modes = ("train", "simulate") if line.mode == "both" else (line.mode,)
    for key in line.keys:
        if key in HALF_FLAGS:
            if line.mode != "both":
                raise UserError(f"The flag {flag(key)} belongs to the mode both; give --ic-path in {line.mode}.")
        elif not any(key in ACTS_ON[mode] for mode in modes):
            raise UserError(f"The flag {flag(key)} {_whose(key)}; leave it out.")
    file = read_keys(line.keys.get("config"))
    return {mode: _settings(mode, file, line) for mode in modes}


def _settings(mode: str, file: KeyFile, line: CommandLine) -> Settings:
    settings, source = Settings(), f"{file.name}: "
    for key, value in file.top.items():
        if key in ACTS_ON[mode]:
            settings[key] = Given(value, Level.FILE, source)
    for key, value in file.sections.get(mode, {}).items():
        if key not in ACTS_ON[mode]:
            raise ConfigError(f"{source}The key `{key}` {_whose(key)}; remove it from [{mode}].")
        settings[key] = Given(value, Level.SECTION, source)
    for key, value in line.keys.items():
        if key in ACTS_ON[mode]:
            settings[key] = Given(value, Level.FLAG, "")
    for key, common in HALVES[mode].items():
        if key in line.keys:
            settings[common] = Given(line.keys[key], Level.FLAG, "")
    return settings


def _whose(key: str) -> str:
    return "acts on a training only" if key in TRAIN_KEYS else "acts on a simulation only"


# Keys that act only together with others: core's, and those of a run ---------------------------------


class Situation(NamedTuple):
    """What decides whether such a key acts: the mode and its resolved values."""

    mode: str
    config: Config
    own: RunnerKeys
    #: The systems are given (a file, the model's own), not drawn.
    given_systems: bool
    #: Held-out orbits are drawn for scores.
    scored: bool
    #: A simulation is by a model.
    by_model: bool


class Condition(NamedTuple):
    """Keys that act only where ``holds``, and the end of the sentence "acts only ..."."""

    keys: frozenset[str]
    holds: Callable[[Situation], bool]
    when: str


def _condition(keys: str, when: str, holds: Callable[[Situation], bool]) -> Condition:
    return Condition(frozenset(keys.split()), holds, when)


CONDITIONS = (
    _condition("debug_every debug_replay_every", "with debug", lambda at: at.config.debug),
    _condition("movie_dir movie_max_frames movie_fps", "with movie", lambda at: at.config.movie),
    _condition("movie_dpi", "with movie or --plot", lambda at: at.config.movie or at.own.plot is not None),
    _condition("wandb_project wandb_name", "with wandb", lambda at: at.own.wandb),
    _condition(
        "save_name", "on a training or with movie", lambda at: at.mode == "train" or at.config.movie
    ),
    _condition(
        "num_orbits",
        "on a simulation with multi_orbit_sim; without, one system is simulated",
        lambda at: at.mode == "train" or at.own.multi_orbit_sim,
    ),
    _condition(
        "mass", "on systems that are drawn, not on given ones", lambda at: not at.given_systems or at.scored
    ),
    _condition(
        "e_min e_max a_min a_max",
        "on two-body systems that are drawn (num_particles 2, no initial conditions given)",
        lambda at: at.config.num_particles == 2 and (not at.given_systems or at.scored),
    ),
    _condition(
        "pos_scale vel_scale",
        "on systems of three or more bodies that are drawn",
        lambda at: at.config.num_particles > 2 and not at.given_systems,
    ),
    _condition(
        "seed", "on systems that are drawn, not on given ones", lambda at: at.mode == "train" or not at.given_systems
    ),
    _condition(
        "eps",
        "without a fixed dt",
        lambda at: at.mode == "train" or at.by_model or at.config.dt <= 0,
    ),
    _condition("dt", "on a simulation without a model", lambda at: not at.by_model),
)


def inert_keys(at: Situation) -> dict[str, str]:
    """Return the keys that do not act in this situation, each with when it would."""
    of_the_run = {key: one.when for one in CONDITIONS if not one.holds(at) for key in one.keys}
    return inert_settings(at.config) | of_the_run


def refuse_inert(halves: Iterable[tuple[Settings, Situation]]) -> None:
    """Refuse a flag that acts on none of ``halves``, and a key in a mode's section that does not act on it.

    A value that equals the default changes nothing, and is fine.
    """
    pairs = [(settings, inert_keys(situation)) for settings, situation in halves]
    for settings, inert in pairs:
        for key, given in settings.items():
            if key not in inert or given.level is Level.FILE or given.value == FIELDS[key].default:
                continue
            acts_elsewhere = any(key in other and key not in idle for other, idle in pairs)
            if given.level is Level.SECTION or not acts_elsewhere:
                raise settings.refusal(key, f"acts only {inert[key]}; leave it out.")
