"""What is wrong with the form of a search space, in one line."""

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from core.config import Config
from core.errors import nearest
from tune.parameters import FloatParameter, shown


def explain(error: ValidationError, model: type[BaseModel]) -> str:
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
    # So do unions within: a number or a word.
    others = [e for e in errors if e["loc"][:-1] == first["loc"][:-1] and e["type"] == "literal_error"]
    path = [part for part in path if not part.startswith(_UNION_PARTS)]
    key = ".".join(path)
    if wrong_key:
        return f"The value of the key `{key}` is {shown(first['input'])}, but must be a word; put it in quotes."
    if first["type"] == "missing":
        return f"The key `{key}` is missing."
    if first["type"] == "extra_forbidden":
        if section == "parameters" and path[-1] in ("log", "step"):
            value = shown(first["input"])
            return f"The value of `{key}` is {value}, but must be left out: a choice has no order."
        if key in Config.model_fields:
            return f"The key `{key}` is one of a training's, not of a space; write `fixed.{key}`."
        known = _known_keys(model, [str(part) for part in first["loc"]])
        return f"The key `{key}` is unknown{nearest(path[-1], known) or '; must be one of ' + ', '.join(known) + '.'}"
    if first["type"] == "value_error":
        return f"In `{key}`: {first['ctx']['error']}"
    if first["type"] == "union_tag_invalid":
        names = first["ctx"]["expected_tags"]
        return f"The value of `{key}.name` is {shown(first['ctx']['tag'])}, but must be one of {names}."
    rule = _RULES.get(first["type"]) or first["msg"].replace("Input should be", "must be", 1)
    if others and others[0] is not first and str(first["loc"][-1]).startswith(_UNION_PARTS):
        rule += f", or {others[0]['ctx']['expected']}"
    if section in ("sampler", "scheduler") and path == [section]:
        has = "have a `name` too" if isinstance(first["input"], dict) else "be a name or a mapping with a `name`"
        rule = f"must {has}, for example `name: {model.model_fields[section].default.name}`"
    return f"The value of `{key}` is {shown(first['input'])}, but {rule}."


_RULES = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a mapping, `key: value`"),
    "list_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "too_short": "must have at least one entry",
    "string_too_short": "must not be empty",
}


_UNION_PARTS = ("constrained-", "literal[", "function-")
_TAG_AT = {"sampler": 1, "scheduler": 1, "parameters": 2}


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that may stand where an unknown one does."""
    if len(path) == 1:
        return list(model.model_fields)
    if path[0] == "parameters":
        return ["float", "int", "choice", *(key for key in FloatParameter.model_fields if key != "domain")]
    members = _models(model.model_fields[path[0]].annotation)
    tagged = [m for m in members if "name" in m.model_fields and path[1] in get_args(m.model_fields["name"].annotation)]
    return list((tagged or members)[0].model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return [one for argument in arguments for one in _models(argument)]
