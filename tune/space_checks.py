"""What a search space must keep beyond the form of its entries: every trial that it allows can be run and compared."""

from collections.abc import Iterator, Mapping, Set
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

from core.config import Config
from core.errors import ConfigError, UserError, nearest
from core.inert import inert_settings
from core.pack import RUN_KEYS, STEERING_KEYS
from tune.constraints import Constraint
from tune.forbidden import check_rules, cuts, is_forbidden
from tune.grid import number_of_cells
from tune.objectives import check_objectives, check_score
from tune.parameters import MOST_CELLS, ChoiceParameter, IntParameter, Parameter, as_text, shown
from tune.pruners import Hyperband, PopulationBased
from tune.samplers import Grid

if TYPE_CHECKING:
    from tune.space import Space

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
#: A choice of more values than this is combined with others by a few of them only, for the number of corners.
_MANY = 8


def check_space(space: "Space") -> None:
    """Raise UserError, without the file, for the first thing that is wrong."""
    _check_keys(space)
    check_trials(space)
    _check_conditions(space)
    check_rules(space.forbid, space.parameters)
    _check_corners(space)
    _check_enqueued(space)


def check_key(section: str, key: str) -> None:
    """Raise UserError for a key of a section that is none of a training's."""
    if key in RUN_KEYS:
        raise UserError(f"The key `{section}.{key}` does not act on the trials of a search; leave it out.")
    if key not in Config.model_fields:
        hint = nearest(key, list(Config.model_fields)) or "; must be a key of the configuration."
        raise UserError(f"The key `{section}.{key}` is unknown{hint}")


def check_not_both(key: str, fixed: Mapping[str, Any]) -> None:
    """Raise UserError for a parameter that is fixed as well."""
    if key in fixed:
        raise UserError(f"The key `{key}` is both under `parameters` and under `fixed`; remove one of the two.")


def _check_keys(space: "Space") -> None:
    for section, names in (("parameters", space.parameters), ("fixed", space.fixed)):
        for key in names:
            check_key(section, key)
    if space.fixed.get("eval_periods") == []:
        raise UserError("The value of `fixed.eval_periods` is [], but must have at least one entry.")
    periods = space.fixed.get("eval_periods")
    if isinstance(periods, list) and any(one in periods[:index] for index, one in enumerate(periods)):
        raise UserError(f"The value of `fixed.eval_periods` is {shown(periods)}, but must have each number once.")
    for key in space.parameters:
        check_not_both(key, space.fixed)
        if key in NOT_SEARCHABLE:
            raise UserError(f"The key `{key}` cannot be under `parameters`: {NOT_SEARCHABLE[key]}.")
    if "seed" in space.fixed:
        raise UserError(f"The key `seed` cannot be under `fixed`: {NOT_SEARCHABLE['seed']}.")
    if space.fixed.get("device") == "cpu" and space.resources.gpu:
        raise UserError(
            f"The value of `fixed.device` is cpu, but `resources.gpu` is {space.resources.gpu:g}; leave out one."
        )
    if space.lanes is not None and space.trainer == "solo":
        raise UserError("The key `lanes` acts only with trainer packed; set that, or leave `lanes` out.")
    if 0 < space.resources.gpu < SMALLEST_SHARE:
        raise UserError(
            f"The value of `resources.gpu` is {space.resources.gpu:g}, but must be 0 or at least {SMALLEST_SHARE}."
        )
    if space.resources.gpu > 1 and space.resources.gpu % 1:
        raise UserError(
            f"The value of `resources.gpu` is {space.resources.gpu}, but must be a whole number or a share of one GPU "
            "(at most 1)."
        )


def _check_conditions(space: "Space") -> None:
    for key, parameter in space.parameters.items():
        for kind, named in (("when", parameter.when or {}), ("only", parameter.required)):
            for name, values in named.items():
                _check_condition(space, key, kind, name, list(values))
    for key in space.parameters:
        _check_no_circle(space, key)


def _check_condition(space: "Space", key: str, kind: str, name: str, values: list[Any]) -> None:
    parent = space.parameters.get(name)
    if not isinstance(parent, ChoiceParameter | IntParameter):
        raise UserError(
            f"The key `parameters.{key}.{kind}` names `{name}`, but must name a choice parameter of this space, or one "
            "of whole numbers."
        )
    for value in values:
        if not any(parent.contains(domain, value) for domain in parent.domains):
            if isinstance(parent, ChoiceParameter):
                every = dict.fromkeys(as_text(one) for domain in parent.domains for one in domain)
                known = f"choices of {name} only: {', '.join(every)}"
            else:
                known = f"values of {name} only: {' or '.join(map(as_text, parent.domains))}"
            which, must = ("has a range for", "have ranges for") if kind == "when" else ("has", "have")
            raise UserError(
                f"The key `parameters.{key}.{kind}.{name}` {which} {shown(value)}, but must {must} {known}."
            )


def _check_no_circle(space: "Space", key: str) -> None:
    path = [key]
    todo = [[key, name] for name in space.parameters[key].parents]
    while todo:
        path = todo.pop()
        if path[-1] == key:
            raise UserError(
                f"The key `parameters.{key}` depends on itself ({' on '.join(path)}); remove one of the conditions."
            )
        if path[-1] not in path[:-1]:
            todo += [[*path, name] for name in space.parameters[path[-1]].parents]


def _check_corners(space: "Space") -> None:
    """Make a config of every corner of the space.

    No rule of a config couples more than three keys, so all corners of every three parameters are enough: their number
    stays small where that of all corners would not.
    """
    inert: list[tuple[dict[str, Any], dict[str, str]]] = []
    for corner in corners(space):
        try:
            config = space.config(corner)
        except ConfigError as error:
            drawn = ", ".join(f"{key} {as_text(value)}" for key, value in corner.items() if key in str(error))
            advice = f" The parameters allow {drawn}: change a range, give one a range under `when`, or use `forbid`."
            raise UserError(f"{error}{advice if drawn else ''}") from None
        inert.append((corner, inert_settings(config)))
    if not inert:
        raise UserError("The rules of `forbid` leave no configuration to try; remove one of them.")
    for section, names in (("parameters", space.parameters), ("fixed", space.fixed)):
        for key in names:
            having = [settings for corner, settings in inert if section == "fixed" or key in corner]
            if not having:
                raise UserError(f"The key `parameters.{key}` is in no trial: what it needs never is so; leave it out.")
            if all(key in settings for settings in having):
                when = having[0][key]
                raise UserError(f"The key `{section}.{key}` acts only {when}, which no trial has; leave it out.")
    _check_scores(space, config)
    _check_sampler(space)
    _check_stopping(space, config)


def _check_sampler(space: "Space") -> None:
    name = space.sampler.name
    if len(space.objectives) > 1 and not space.sampler.several:
        raise UserError(
            f"The value of `sampler` is {name}, but must be one that knows several objectives (tpe, gp, nsga2, random, "
            "qmc or grid); or give one objective."
        )
    if not isinstance(space.sampler, Grid):
        return
    for key, parameter in space.parameters.items():
        if any(parameter.every(domain) is None for domain in parameter.domains):
            raise UserError(
                f"The key `parameters.{key}` has too many values for `sampler: grid`; give it a `step`, or a `choice` "
                "of values."
            )
    if number_of_cells(space) is None:
        raise UserError(
            f"The grid of this space has more than {MOST_CELLS:,} configurations, too many for `sampler: grid`; make "
            "the steps longer."
        )


def _check_population(space: "Space", scheduler: PopulationBased, config: Config) -> None:
    for key, parameter in space.parameters.items():
        if key not in STEERING_KEYS:
            raise UserError(
                f"The key `parameters.{key}` cannot be searched with `scheduler: pbt`, which changes parameters of "
                f"trainings that run: those are {', '.join(sorted(STEERING_KEYS))}; put it under `fixed`."
            )
        if parameter.parents:
            raise UserError(
                f"The key `parameters.{key}` depends on another one, but must not with `scheduler: pbt`, which changes "
                "each by itself; leave `when` and `only` out."
            )
    if config.evaluate_every and scheduler.perturbation_interval % config.evaluate_every:
        raise UserError(
            f"The value of `scheduler.perturbation_interval` is {scheduler.perturbation_interval}, but must be a "
            f"multiple of evaluate_every ({config.evaluate_every}): trials are compared when they are scored."
        )
    for name, given, why in (
        ("confirm", space.confirm, "a training that was changed on its way cannot be repeated"),
        ("max_concurrent", space.max_concurrent, "all trials advance in turn; `resources` says how many at a time"),
        ("trainer", space.trainer == "packed", "trials of a pack cannot take over each other's trainings; use solo"),
        ("patience", space.patience, "the whole population ends together"),
    ):
        if given:
            raise UserError(f"The key `{name}` cannot stand beside `scheduler: pbt`: {why}; leave it out.")


def check_trials(space: "Space") -> None:
    """Raise UserError for too few trials, of the space or of the command line."""
    if len(space.enqueue) > space.trials:
        raise UserError(
            f"The value of `trials` is {space.trials}, but must be at least {len(space.enqueue)}, the number of "
            "configurations in `enqueue`; raise it, or take some of them out."
        )
    if space.trials < 2 and isinstance(space.scheduler, PopulationBased):
        raise UserError(
            f"The value of `trials` is {space.trials}, but must be at least 2 with `scheduler: pbt`, whose trials take "
            "over each other's trainings; or set `scheduler: none`."
        )


def _check_hyperband(scheduler: Hyperband, config: Config) -> None:
    if scheduler.max_resource != "auto" and scheduler.max_resource > config.epochs:
        raise UserError(
            f"The value of `scheduler.max_resource` is {scheduler.max_resource}, but must be at most epochs "
            f"({config.epochs}); or leave it out."
        )
    if scheduler.max_resource != "auto" and scheduler.min_resource > scheduler.max_resource:
        raise UserError(
            f"The value of `scheduler.min_resource` is {scheduler.min_resource}, but must be at most max_resource "
            f"({scheduler.max_resource})."
        )


def _check_stopping(space: "Space", config: Config) -> None:
    scheduler = space.scheduler
    if isinstance(scheduler, Hyperband):
        _check_hyperband(scheduler, config)
    first = scheduler.first_stop()
    if first is None:
        return
    if isinstance(scheduler, PopulationBased):
        _check_population(space, scheduler, config)
    if first.epoch >= config.epochs:
        never = "ever takes over another's training" if scheduler.name == "pbt" else "is ever stopped"
        raise UserError(
            f"The value of `scheduler.{first.key}` is {getattr(scheduler, first.key)}, but {first.what} must be below "
            f"epochs ({config.epochs}), or no trial {never}; or set `scheduler: none`."
        )
    if not 0 < config.evaluate_every < config.epochs:
        raise UserError(
            f"The value of `fixed.evaluate_every` is {config.evaluate_every}, but must be between 1 and epochs - 1 "
            f"({config.epochs - 1}): {scheduler.name} stops trials by the scores they have on the way; or set "
            "`scheduler: none`."
        )


def _check_enqueued(space: "Space") -> None:
    whole: dict[str, int] = {}
    for number, entry in enumerate(space.enqueue, 1):
        which = f"Number {number} of `enqueue`"
        for key, value in entry.items():
            if key not in space.parameters:
                known = nearest(key, list(space.parameters)) or f"; must be one of {', '.join(space.parameters)}."
                raise UserError(f"{which} has `{key}`, which is no parameter of this space{known}")
            parameter = space.parameters[key]
            if missing := [parent for parent in parameter.parents if parent not in entry]:
                raise UserError(f"{which} has `{key}`, which depends on `{missing[0]}`; add that to it.")
            if not parameter.exists(entry):
                raise UserError(f"{which} has `{key}`, which is not drawn beside the rest of it; leave it out.")
            domain = parameter.domain_given(entry)[1]
            if not parameter.contains(domain, value):
                among = ", ".join(map(as_text, domain)) if parameter.kind == "choice" else as_text(list(domain))
                raise UserError(f"{which} has {shown(value)} for `{key}`, but must have a value of {among}.")
        if not entry:
            raise UserError(f"{which} names no parameter, but must name at least one.")
        if space.forbids(entry):
            raise UserError(f"{which} is a combination that `forbid` does not allow; remove one of the two.")
        if space.has_every(entry):
            first = whole.setdefault(as_text(sorted(space.as_drawn(entry).items())), number)
            if first != number:
                raise UserError(f"{which} is the same configuration as number {first}; remove one of the two.")


def _check_scores(space: "Space", config: Config) -> None:
    kepler = config.num_particles == 2 and not config.softening and not config.external_field_mass
    check_objectives(space.objectives, config.eval_periods, kepler)
    for text in space.constraints:
        constraint = Constraint.parse(text)
        check_score("score of a constraint", constraint.name, config.eval_periods, kepler)
        constraint.check()
    limits = list(space.ranking.limits.values())
    for one, other in permutations(limits, 2):
        if one.name == other.name and (one.sign, other.sign) == ("<=", ">=") and one.limit < other.limit:
            raise UserError(f"No result can keep both `{one}` and `{other}`; change one of the two.")


def corners(space: "Space") -> Iterator[dict[str, Any]]:
    """Yield parameters of trials that the space allows: for every three, all ends and choices that go together.

    What the three depend on is varied too. There is no corner where everything is forbidden. Of a choice of many values
    a few go together with others, but each is in some corner.
    """
    order = space.draw_order
    for varied in combinations(space.parameters, min(3, len(order))):
        yield from _drawings(space, order, set().union(*(_related(space, key) for key in varied)), {})
    for key, parameter in space.parameters.items():
        if isinstance(parameter, ChoiceParameter) and any(len(domain) > _MANY for domain in parameter.domains):
            yield from _drawings(space, order, _related(space, key), {}, key)


def _related(space: "Space", key: str) -> set[str]:
    """A parameter, what it depends on, and what rules name beside it."""
    beside = {other for rule in space.forbid if key in rule for other in rule}
    return {key} | _ancestors(space, key) | beside


def _ancestors(space: "Space", key: str) -> set[str]:
    parents = set(space.parameters[key].parents)
    return parents.union(*(_ancestors(space, parent) for parent in parents))


def _drawings(
    space: "Space", order: list[tuple[str, Parameter]], free: Set[str], drawn: dict[str, Any], whole: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield every way to go on from what is drawn: values of the free parameters, and the first that is allowed.

    Of a free choice of many values a few are tried, unless it is the one that is ``whole``.
    """
    if is_forbidden(space.forbid, space.parameters, drawn):
        return
    if not order:
        yield drawn
        return
    (key, parameter), rest = order[0], order[1:]
    if not parameter.exists(drawn):
        yield from _drawings(space, rest, free, drawn, whole)
        return
    for value in _values(space, key, parameter.domain_given(drawn)[1], every=key == whole or key not in free):
        is_allowed = False
        for corner in _drawings(space, rest, free, {**drawn, key: value}, whole):
            is_allowed = True
            yield corner
        if is_allowed and key not in free:
            return


def _values(space: "Space", key: str, domain: Any, every: bool) -> list[Any]:
    """Values of a parameter to try: its points, or a few of many, and those that other parameters depend on."""
    parameter = space.parameters[key]
    values = parameter.points(domain, cuts(space.forbid, key))
    named: list[Any] = []
    for other in space.parameters.values():
        named += (other.when or {}).get(key, ())
        named += _few(other.required.get(key, []))
    if isinstance(parameter, ChoiceParameter) and not every:
        values = _few(values)
    return values + [value for value in named if value not in values and parameter.contains(domain, value)]


def _few(values: list[Any]) -> list[Any]:
    """The first of many values, the smallest, the largest and some between: rules of a config are about such ends."""
    if len(values) <= _MANY:
        return values
    first = values[0]
    if all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    picked = [first, *(values[index * (len(values) - 1) // 4] for index in range(5))]
    return [value for index, value in enumerate(picked) if value not in picked[:index]]
