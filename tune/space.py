"""A search space: one YAML file, one question. Everything wrong with it is said before anything starts."""

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import optuna
import yaml
from optuna.distributions import BaseDistribution
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.config import Config
from core.errors import UserError, nearest, shorten
from tune.constraints import FORM, Constraint
from tune.duration import Duration
from tune.forbidden import is_forbidden
from tune.overrides import override
from tune.parameters import AnyParameter, Parameter, Scalar, shown
from tune.pruners import Asha, Scheduler
from tune.ranking import Ranking
from tune.samplers import TPE, Sampler
from tune.space_checks import SMALLEST_SHARE, check_key, check_not_both, check_space, corners
from tune.space_errors import explain
from tune.yaml_file import read_mapping

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Resources(BaseModel):
    """What one trial takes of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cpu: Annotated[float, Field(ge=SMALLEST_SHARE, allow_inf_nan=False)] = Field(
        1, description="cores, or a share of one"
    )
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(0, description="GPUs, or a share of one")


class Confirm(BaseModel):
    """How the best trials are trained again, with fresh seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    top: Count = Field(3, description="so many of the best, at most: those within max_rel_dE")
    seeds: Annotated[int, Field(ge=2)] = Field(5, description="fresh seeds for each that does not drop out")


class Space(BaseModel):
    """One question, and how to search for its answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    question: Annotated[str, Field(min_length=1)] = Field(description="what the search is to find out")
    parameters: Annotated[dict[str, AnyParameter], Field(min_length=1)] = Field(description="what is searched")
    fixed: dict[str, Any] = Field({}, description="config keys that all trials share")
    objectives: Annotated[list[str], Field(min_length=1)] = Field(
        ["work_gain"], description="scores in their order: the first ranks the trials; `objective: name` gives one"
    )
    max_rel_dE: Positive = Field(
        5e-3, description="a trial with a larger energy error, over the first objective's periods, ranks below all"
    )
    constraints: list[Annotated[str, Field(json_schema_extra={"pattern": FORM})]] = Field(
        [], description="limits of scores, `score <= number` or `>=`; a trial beyond one ranks below all within them"
    )
    forbid: list[dict[str, Any]] = Field(
        [],
        description="combinations that are never tried: {parameter: value, list of choices, or [low, high]}",
    )
    trials: Count = Field(description="trials to run")
    enqueue: list[dict[str, Any]] = Field(
        [], description="configurations that are known to be good, whole or in part, to be run first"
    )
    warm_start: str | None = Field(
        None, description="the results folder of an older search, whose trials the sampler learns from"
    )
    time_budget: Duration | None = Field(
        None, description="seconds, or text such as 90s, 30min or 2h, after which what runs is stopped"
    )
    patience: Count | None = Field(
        None, description="the search ends when so many trials in a row have brought no better best"
    )
    confirm: Confirm | None = Field(None, description="train the best again before a best is named")
    max_concurrent: Count | None = Field(None, description="trials at a time, at most; as many as fit if left out")
    resources: Resources = Field(Resources(), description="what one trial takes, or with trainer packed one pack")
    trainer: Literal["solo", "packed"] = Field(
        "solo", description="a process for each trial, or packs: processes that train many trials at once"
    )
    lanes: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="trials in one pack, at most; with trainer packed only"
    )
    storage: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="where checkpoints go on the way: a folder that all nodes of a cluster share, or a URI"
    )
    sampler: Sampler = Field(TPE(), description="how the next parameters are chosen")
    scheduler: Scheduler = Field(Asha(), description="how trials are stopped early")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of the whole search")

    @model_validator(mode="before")
    @classmethod
    def _one_objective(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "objective" in values:
            if "objectives" in values:
                raise ValueError("The keys `objective` and `objectives` are both there; remove one of the two.")
            if not isinstance(values["objective"], str):
                raise ValueError(
                    f"The value of `objective` is {shown(values['objective'])}, but must be the name of a "
                    "score; `objectives` takes a list."
                )
            return {**{k: v for k, v in values.items() if k != "objective"}, "objectives": [values["objective"]]}
        return values

    @model_validator(mode="before")
    @classmethod
    def _population_is_drawn(cls, values: Any) -> Any:
        """Population-based training changes the parameters itself, so that its first ones are drawn at random."""
        if isinstance(values, Mapping) and _name(values.get("scheduler")) == "pbt":
            if (sampler := _name(values.get("sampler", "random"))) != "random":
                raise ValueError(
                    f"The value of `sampler` is {shown(sampler)}, but must be left out with `scheduler: "
                    "pbt`, which changes the parameters itself and allows no sampler beside it."
                )
            return {**values, "sampler": "random"}
        return values

    @model_validator(mode="before")
    @classmethod
    def _plain_values_are_fixed(cls, values: Any) -> Any:
        """A parameter that is given as a plain value is one of the fixed keys."""
        if not isinstance(values, Mapping):
            return values
        parameters, fixed = values.get("parameters"), values.get("fixed", {})
        if not isinstance(parameters, Mapping) or not isinstance(fixed, Mapping):
            return values
        plain = {key: value for key, value in parameters.items() if isinstance(value, Scalar | list)}
        for key in plain:
            check_key("parameters", str(key))
            check_not_both(key, fixed)
        searched = {key: value for key, value in parameters.items() if key not in plain}
        return {**values, "parameters": searched, "fixed": {**fixed, **plain}}

    def config(self, parameters: Mapping[str, Any], seed: int | None = None) -> Config:
        """Return the settings of a trial. Raises ConfigError if they cannot be honoured."""
        return Config.from_mapping({**self.fixed, **parameters, **({} if seed is None else {"seed": seed})})

    def example(self) -> Config:
        """Return the settings of some trial: for what is the same in all of them."""
        return self.config(self.corner())

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask Optuna for the parameters of a trial: those that exist beside the others, in the order of the space."""
        drawn: dict[str, Any] = {}
        for key, parameter in self.draw_order:
            if parameter.exists(drawn):
                suffix, domain = parameter.domain_given(drawn)
                drawn[key] = parameter.suggest(trial, key + suffix, domain)
        return {key: drawn[key] for key in self.parameters if key in drawn}

    def corner(self) -> dict[str, Any]:
        """Return parameters of some trial that the space allows."""
        return next(corners(self))

    def stored(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna keeps for parameters of a trial, under its own names."""
        named: dict[str, Any] = {}
        for key, value in parameters.items():
            suffix, domain = self.parameters[key].domain_given(parameters)
            named[key + suffix] = self.parameters[key].stored(domain, value)
        return named

    def has_every(self, parameters: Mapping[str, Any]) -> bool:
        """Whether parameters are a whole configuration."""
        return all(key in parameters for key, one in self.parameters.items() if one.exists(parameters))

    def as_drawn(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters that were written by hand as a trial would have them: 1 is 1.0 where it is a float."""
        written = {key: (self.parameters[key], value) for key, value in parameters.items()}
        return {
            key: parameter.value(domain, parameter.stored(domain, value))
            for key, (parameter, value) in written.items()
            for domain in [parameter.domain_given(parameters)[1]]
        }

    def forbids(self, parameters: Mapping[str, Any]) -> bool:
        """Whether parameters of a trial are a forbidden combination."""
        return is_forbidden(self.forbid, self.parameters, parameters)

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter as Optuna knows it, also those that exclude each other."""
        return {
            key + suffix: distribution
            for key, parameter in self.parameters.items()
            for suffix, distribution in parameter.distributions.items()
        }

    @property
    def drawn_at_random(self) -> list[str]:
        """The parameters that the sampler does not model."""
        common, numbers = self.sampler.common_only, self.sampler.numbers_only
        return [
            key
            for key, parameter in self.parameters.items()
            if (common and (parameter.when or parameter.only)) or (numbers and parameter.kind == "choice")
        ]

    @property
    def ranking(self) -> Ranking:
        """How trials are ordered."""
        limits = tuple(map(Constraint.parse, self.constraints))
        return Ranking(tuple(self.objectives), self.max_rel_dE, limits)

    @property
    def epochs(self) -> int:
        """The epochs of a trial that is not stopped."""
        return int(self.fixed.get("epochs", Config.model_fields["epochs"].default))

    @property
    def draw_order(self) -> list[tuple[str, Parameter]]:
        """The parameters, each after those that it depends on."""

        def depth(key: str) -> int:
            return max((1 + depth(parent) for parent in self.parameters[key].parents), default=0)

        return sorted(self.parameters.items(), key=lambda item: depth(item[0]))

    def changed(self, **values: Any) -> Self:
        """Return a copy with some values replaced; those that are None stay as they are."""
        return self.model_copy(update={key: value for key, value in values.items() if value is not None})

    def to_yaml(self) -> str:
        """The space as a file that :func:`load_space` reads back."""
        values = self.model_dump(by_alias=True, exclude_none=True)
        for key in ("constraints", "forbid", "enqueue"):
            if not values[key]:
                del values[key]
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def shipped_spaces() -> list[str]:
    """Return the names of the spaces that come with the package."""
    entries = (entry.name for entry in files("search_spaces").iterdir())
    return sorted(name.removesuffix(".yaml") for name in entries if name.endswith(".yaml"))


def _name(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, Mapping) else entry


def find_space(name: str) -> Traversable:
    """Find a space: an existing file wins; `history` and `spaces/history.yaml` name one that is shipped.

    Raises UserError with the names there are.
    """
    path = Path(name)
    shown = shorten(name)
    try:
        if path.is_file():
            return path.resolve()
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise UserError(f"There is no search space {shown}: {getattr(error, 'strerror', error)}.") from None
    names = shipped_spaces()
    pure = PurePosixPath(name.removesuffix(".yaml"))
    if str(pure.parent) in (".", "spaces", "search_spaces") and pure.name in names:
        return files("search_spaces") / f"{pure.name}.yaml"
    if is_folder:
        raise UserError(f"The search space {shown} is a folder; give a YAML file, or one of {', '.join(names)}.")
    raise UserError(
        f"There is no search space {shown}: no such file, and the shipped ones are {', '.join(names)}"
        f"{nearest(pure.name, names) or '.'}"
    )


def load_space(file: Traversable, assignments: Sequence[str] = ()) -> Space:
    """Read and check a space, with entries set as `--set` does (:func:`tune.overrides.override`).

    Raises UserError: file, key, value, and what it must be.
    """
    values = read_mapping(file)
    try:
        return _checked(override(values, assignments))
    except UserError as error:
        source = str(file)
        if assignments:
            try:
                _checked(values)
            except UserError as own:  # the file's own mistake, if it is the same one
                assignments = () if str(own) == str(error) else assignments
        source += "".join(f" --set {shorten(text)}" for text in assignments)
        raise UserError(f"{source}: {error}") from None


def _checked(values: Mapping[str, Any]) -> Space:
    try:
        space = Space.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, Space)) from None
    check_space(space)
    return space


if __name__ == "__main__":
    from tune.space_schema import main

    sys.exit(main())
