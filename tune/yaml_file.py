"""Read a YAML file safely, with the two repairs that a settings file needs."""

import re
from collections.abc import Hashable
from importlib.resources.abc import Traversable
from typing import Any

import yaml
from yaml.reader import ReaderError

from core.errors import UserError, shorten

#: Entries of a file, those behind an alias counted wherever it stands: a few lines of aliases can mean billions.
_MOST_ENTRIES = 20_000
#: Larger numbers than any setting, and than what Python turns into floats and text.
_MOST_BITS = 1000


class _TooMuch(yaml.MarkedYAMLError):
    """What YAML allows, but a settings file does not."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-4` as a number, and refuses a key that is given twice and what has no reasonable end.

    PyYAML follows YAML 1.1, where a float needs a point and a signed exponent: `1e-4` would be a string.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        _count(node, {})
        return super().construct_document(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) <= _MOST_BITS:
            number = super().construct_yaml_int(node)
            if number.bit_length() <= _MOST_BITS:
                return number
        raise _TooMuch(
            problem=f"the number {shorten(node.value)} is too large; give one of fewer digits",
            problem_mark=node.start_mark,
        )

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


def _count(node: yaml.Node, counts: dict[yaml.Node, int | None]) -> int:
    """Count the entries of a node, before anything is made of them. Raises _TooMuch."""
    if node not in counts:
        counts[node] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        below = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        counts[node] = 1 + sum(_count(one, counts) for one in below)
    count = counts[node]
    if count is None:
        problem = "an alias (*) stands within the entry that it names; write out what is meant"
    elif count > _MOST_ENTRIES:
        problem = f"more than {_MOST_ENTRIES:,} entries, each alias (*) counted in full; leave some out"
    else:
        return count
    raise _TooMuch(problem=problem, problem_mark=node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
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
        raise UserError(f"{file}: line {line}: {_problem(error)}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {_problem(error)}.") from None
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
        raise UserError(f"{source}: {_problem(error)}.") from None


def _problem(error: Exception) -> str:
    if isinstance(error, _TooMuch):
        return str(error.problem)
    if isinstance(error, ReaderError) and error.encoding == "unicode":
        return f"not valid YAML: it holds a character that YAML does not allow (U+{error.character:04X}); remove it"
    if isinstance(error, ReaderError | UnicodeDecodeError):
        return "not valid YAML: must be UTF-8 text"
    return f"not valid YAML: {getattr(error, 'problem', None) or str(error).partition(chr(10))[0]}"
