"""A search space: one YAML file, one question. Everything wrong with it is said before anything starts."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.config import Config
from core.errors import ConfigError, UserError, nearest
from core.inert import inert_settings
from core.pack import RUN_KEYS
from tune.objectives import check_objectives
from tune.parameters import AnyParameter, ChoiceParameter, Parameter, as_text, shorten
from tune.pruners import Asha, Scheduler
from tune.samplers import TPE, Sampler
from tune.yaml_file import read_mapping

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

#: Keys that say which systems a trial is scored on. Trials with other systems could not be compared.
SYSTEM_KEYS = (
    *("num_particles", "dim", "mass", "pos_scale", "vel_scale", "softening", "external_field_mass"),
    *("external_field_position", "e_min", "e_max", "a_min", "a_max", "eval_periods"),
)
NOT_SEARCHABLE = {
    **dict.fromkeys(SYSTEM_KEYS, "trials scored on different systems cannot be compared; put it under `fixed`"),
    **dict.fromkeys(
        ("epochs", "evaluate_every"), "early stopping compares trials epoch by epoch; put it under `fixed`"
    ),
    **dict.fromkeys(("device",), "`resources` decides where trials run; put it under `fixed`"),
    "seed": "every trial has a seed of its own, made from the space's `seed`; leave it out",
}


#: Ray counts resources in units of this.
SMALLEST_SHARE = 1e-4


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
    trials: Count = Field(description="trials to run")
    confirm: Confirm | None = Field(None, description="train the best again before a best is named")
    max_concurrent: Count | None = Field(None, description="trials at a time, at most; as many as fit if left out")
    resources: Resources = Field(Resources(), description="what one trial takes")
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
                    f"The value of `objective` is {shorten(as_text(values['objective']))}, but must be the name of a "
                    "score; `objectives` takes a list."
                )
            return {**{k: v for k, v in values.items() if k != "objective"}, "objectives": [values["objective"]]}
        return values

    def config(self, parameters: Mapping[str, Any], seed: int | None = None) -> Config:
        """Return the settings of a trial. Raises ConfigError if they cannot be honoured."""
        return Config.from_mapping({**self.fixed, **parameters, **({} if seed is None else {"seed": seed})})

    def example(self) -> Config:
        """Return the settings of some trial: for what is the same in all of them."""
        return self.config(next(_corners(self)))

    @property
    def epochs(self) -> int:
        """The epochs of a trial that is not stopped."""
        return int(self.fixed.get("epochs", Config.model_fields["epochs"].default))

    @property
    def draw_order(self) -> list[tuple[str, Parameter]]:
        """The parameters, those that depend on another one last."""
        return sorted(self.parameters.items(), key=lambda item: item[1].parent is not None)

    def changed(self, **values: Any) -> Self:
        """Return a copy with some values replaced; those that are None stay as they are."""
        return self.model_copy(update={key: value for key, value in values.items() if value is not None})

    def to_yaml(self) -> str:
        """The space as a file that :func:`load_space` reads back."""
        values = self.model_dump(by_alias=True, exclude_none=True)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


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
    shipped = files("search_spaces")
    names = sorted(entry.name.removesuffix(".yaml") for entry in shipped.iterdir() if entry.name.endswith(".yaml"))
    pure = PurePosixPath(name.removesuffix(".yaml"))
    if str(pure.parent) in (".", "spaces", "search_spaces") and pure.name in names:
        return shipped / f"{pure.name}.yaml"
    if is_folder:
        raise UserError(f"The search space {shown} is a folder; give a YAML file, or one of {', '.join(names)}.")
    raise UserError(
        f"There is no search space {shown}: no such file, and the shipped ones are {', '.join(names)}"
        f"{nearest(pure.name, names) or '.'}"
    )


def load_space(file: Traversable) -> Space:
    """Read and check a space. Raises UserError: file, key, value, and what it must be."""
    values = read_mapping(file)
    try:
        space = Space.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{file}: {_explain(error)}") from None
    try:
        _check_keys(space)
        _check_conditions(space)
        _check_corners(space)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return space


def _check_keys(space: Space) -> None:
    for section, keys in (("parameters", space.parameters), ("fixed", space.fixed)):
        for key in keys:
            if key in RUN_KEYS:
                raise UserError(f"The key `{section}.{key}` does not act on the trials of a search; leave it out.")
            if key not in Config.model_fields:
                hint = nearest(key, list(Config.model_fields)) or "; must be a key of the configuration."
                raise UserError(f"The key `{section}.{key}` is unknown{hint}")
    if space.fixed.get("eval_periods") == []:
        raise UserError("The value of `fixed.eval_periods` is [], but must have at least one entry.")
    for key in space.parameters:
        if key in space.fixed:
            raise UserError(f"The key `{key}` is both under `parameters` and under `fixed`; remove one of the two.")
        if key in NOT_SEARCHABLE:
            raise UserError(f"The key `{key}` cannot be under `parameters`: {NOT_SEARCHABLE[key]}.")
    if "seed" in space.fixed:
        raise UserError(f"The key `seed` cannot be under `fixed`: {NOT_SEARCHABLE['seed']}.")
    if space.fixed.get("device") == "cpu" and space.resources.gpu:
        raise UserError(
            f"The value of `fixed.device` is cpu, but `resources.gpu` is {space.resources.gpu:g}; leave out one."
        )
    if 0 < space.resources.gpu < SMALLEST_SHARE:
        raise UserError(
            f"The value of `resources.gpu` is {space.resources.gpu:g}, but must be 0 or at least {SMALLEST_SHARE}."
        )
    if space.resources.gpu > 1 and space.resources.gpu % 1:
        raise UserError(
            f"The value of `resources.gpu` is {space.resources.gpu}, but must be a whole number or a share of one GPU "
            "(at most 1)."
        )


def _check_conditions(space: Space) -> None:
    for key, parameter in space.parameters.items():
        if not parameter.when or not parameter.parent:
            continue
        parent = space.parameters.get(parameter.parent)
        if not isinstance(parent, ChoiceParameter) or parent.when:
            raise UserError(
                f"The key `parameters.{key}.when` names `{parameter.parent}`, but must name a choice parameter of this "
                "space without a `when` of its own."
            )
        for value in parameter.when[parameter.parent]:
            if value not in parent.domain:
                raise UserError(
                    f"The key `parameters.{key}.when.{parameter.parent}` has a range for {value}, but must have ranges "
                    f"for choices of {parameter.parent} only: {', '.join(map(as_text, parent.domain))}."
                )


def _check_corners(space: Space) -> None:
    """Make a config of every corner of the space.

    No rule of a config couples more than three keys, so all corners of every three parameters are enough: their number
    stays small where that of all corners would not.
    """
    inert = []
    for corner in _corners(space):
        try:
            config = space.config(corner)
        except ConfigError as error:
            drawn = ", ".join(f"{key} {as_text(value)}" for key, value in corner.items() if key in str(error))
            advice = f" The parameters allow {drawn}: change a range, or give one a range of its own under `when`."
            raise UserError(f"{error}{advice if drawn else ''}") from None
        inert.append(inert_settings(config))
    for section, keys in (("parameters", space.parameters), ("fixed", space.fixed)):
        for key in keys:
            if all(key in settings for settings in inert):
                when = inert[0][key]
                raise UserError(f"The key `{section}.{key}` acts only {when}, which no trial has; leave it out.")
    if config.num_particles != 2:
        raise UserError(
            f"The value of `fixed.num_particles` is {config.num_particles}, but must be 2: held-out scores of more "
            "bodies are not available yet in this version."
        )
    kepler = not config.softening and not config.external_field_mass
    check_objectives(space.objectives, config.eval_periods, kepler)
    if isinstance(space.scheduler, Asha) and space.scheduler.first_rung >= config.epochs:
        raise UserError(
            f"The value of `scheduler.min_resource` is {space.scheduler.min_resource}, but the first rung (min_resource"
            f" * reduction_factor ** min_early_stopping_rate = {space.scheduler.first_rung}) must be below epochs "
            f"({config.epochs}), or no trial is ever stopped; or set `scheduler: none`."
        )
    if isinstance(space.scheduler, Asha) and not 0 < config.evaluate_every < config.epochs:
        raise UserError(
            f"The value of `fixed.evaluate_every` is {config.evaluate_every}, but must be between 1 and epochs - 1 "
            f"({config.epochs - 1}): asha stops trials by the scores they have on the way; or set `scheduler: none`."
        )


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    order = space.draw_order
    for varied in combinations(range(len(order)), min(3, len(order))):
        parents = {order[index][1].parent for index in varied}
        partial: list[dict[str, Any]] = [{}]
        for index, (key, parameter) in enumerate(order):
            free = index in varied or key in parents
            partial = [
                {**drawn, key: value}
                for drawn in partial
                for value in parameter.domain_given(drawn)[1][: None if free else 1]
            ]
        yield from partial


def _explain(error: ValidationError) -> str:
    """Put the first problem into the form "The value of `key` is x, but must be y."."""
    errors = error.errors(include_url=False)
    # A misspelt key shows twice, as unknown and as missing: the first is what was written.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"]]
    if not path:
        return str(first["ctx"]["error"])
    section = path[0]
    wrong_key = first["type"] == "invalid_key" or "[key]" in path
    if "[key]" in path:
        path = path[: path.index("[key]")]
    if section in _TAG_AT:  # pydantic names the member of a union too, which is no key of the file
        path = [part for index, part in enumerate(path) if index != _TAG_AT[section]]
    key = ".".join(path)
    if wrong_key:
        return f"The value of the key `{key}` is {as_text(first['input'])}, but must be a word; put it in quotes."
    if first["type"] == "missing":
        return f"The key `{key}` is missing."
    if first["type"] == "extra_forbidden":
        if section == "parameters" and path[-1] == "log":
            value = shorten(as_text(first["input"]))
            return f"The value of `{key}` is {value}, but must be left out: a choice has no order."
        known = _KNOWN_KEYS.get(section, list(Space.model_fields))
        return f"The key `{key}` is unknown{nearest(path[-1], known) or '; must be one of ' + ', '.join(known) + '.'}"
    if first["type"] == "value_error":
        return f"In `{key}`: {first['ctx']['error']}"
    if first["type"] == "union_tag_invalid":
        names = first["ctx"]["expected_tags"]
        return f"The value of `{key}.name` is {first['ctx']['tag']}, but must be one of {names}."
    rule = _RULES.get(first["type"]) or first["msg"].replace("Input should be", "must be", 1)
    if section in ("sampler", "scheduler") and path == [section]:
        has = "have a `name` too" if isinstance(first["input"], dict) else "be a name or a mapping with a `name`"
        rule = f"must {has}, for example `name: {Space.model_fields[section].default.name}`"
    return f"The value of `{key}` is {shorten(as_text(first['input']))}, but {rule}."


_RULES = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a mapping, `key: value`"),
    "list_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "too_short": "must have at least one entry",
    "string_too_short": "must not be empty",
}


_TAG_AT = {"sampler": 1, "scheduler": 1, "parameters": 2}
_KNOWN_KEYS = {
    "parameters": ["float", "int", "choice", "log", "when"],
    "confirm": list(Confirm.model_fields),
    "resources": list(Resources.model_fields),
    "sampler": list(TPE.model_fields),
    "scheduler": list(Asha.model_fields),
}
