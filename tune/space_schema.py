"""A JSON Schema of search spaces, for editors: `python -m tune.space --schema`. Made of the models that read them."""

import json
from collections.abc import Sequence
from typing import Any

from core.config import Config
from core.errors import exit_on_user_error
from core.pack import RUN_KEYS
from tune.command_line import Parser
from tune.objectives import SCORES
from tune.space import Space

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the schema; return the exit status."""
    with exit_on_user_error("tune.space"):
        parser = Parser(prog="python -m tune.space", description="What a search space may say.")
        parser.add_argument("--schema", action="store_true", required=True, help="print it as JSON Schema, for editors")
        parser.parse_args(arguments)
        print(json.dumps(schema(), indent=1))
        return 0


def schema() -> dict[str, Any]:
    """Return the schema of a space as it is written, shorthands included.

    It knows the form of each entry. What one entry must be beside another, only :func:`tune.space.load_space` knows.
    """
    of_space = Space.model_json_schema()
    of_config = Config.model_json_schema()["properties"]
    keys = {key: value for key, value in of_config.items() if key not in RUN_KEYS and key != "seed"}
    properties = of_space["properties"]
    properties["fixed"] |= {"properties": keys, "additionalProperties": False}
    one = properties["parameters"].pop("additionalProperties")
    plain = {"type": ["boolean", "number", "string", "array"], "description": "the same in all trials, as under fixed"}
    of_space["$defs"]["Parameter"] = {"anyOf": [*one["oneOf"], plain]}
    of_each = {
        key: {"description": about["description"], "$ref": "#/$defs/Parameter"} for key, about in keys.items()
    }
    properties["parameters"] |= {"properties": of_each, "additionalProperties": False}
    name = {"type": "string", "pattern": f"^({'|'.join(SCORES)})(_[0-9]+)?$"}
    properties["objectives"]["items"] = name
    properties["objective"] = {**name, "description": "objectives, if there is one only"}
    for section in ("sampler", "scheduler"):
        models = properties[section].pop("oneOf")
        del properties[section]["discriminator"]
        names = []
        for reference in models:
            model = of_space["$defs"][reference["$ref"].rpartition("/")[2]]
            model["required"] = sorted({"name", *model.get("required", [])})
            names.append(model["properties"]["name"]["const"])
        properties[section]["anyOf"] = [{"enum": names}, *models]
    return {"$schema": _DIALECT, **_without_titles(of_space), "title": "A search space of AITimeStepper"}


def _without_titles(schema: Any) -> Any:
    """Leave out what says nothing but the name of a key."""
    if isinstance(schema, list):
        return [_without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))
    }
