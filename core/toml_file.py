"""Settings as TOML text: what tomllib reads from it is what was written."""

import re
from collections.abc import Mapping
from typing import Any


def to_toml(values: Mapping[str, Any]) -> str:
    """Return ``key = value`` lines, in order. A key that is None has no line: TOML knows no such value."""
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in values.items() if value is not None)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Not JSON's escapes: it has pairs of them beyond U+FFFF, and leaves U+007F as it is.
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)
