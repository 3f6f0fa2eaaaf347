"""Read a YAML file safely, with the two repairs that a settings file needs."""

import re
from collections.abc import Hashable
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from core.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-4` as a number and refuses a key that is given twice.

    PyYAML follows YAML 1.1, where a float needs a point and a signed exponent: `1e-4` would be a string.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key `{key.value}` is given twice; remove one of the two",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_mapping(file: Traversable) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping. Raises UserError with the file and the line."""
    try:
        content = yaml.load(file.read_bytes(), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a YAML file.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}: line {line}: not valid YAML: {error.problem}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{file}: not valid YAML: must be UTF-8 text.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid YAML: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping with keys such as `parameters`, not {type(content).__name__}.")
    return content


def read_value(text: str, source: str) -> Any:
    """Read one value as such a file would. Raises UserError, with the ``source`` of the text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{source}: not valid YAML: {problem}.") from None
