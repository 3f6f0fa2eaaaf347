"""Durations as entries of a search space: 90, 90s, 30min, 2h."""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from tune.parameters import shown

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def seconds(value: Any) -> float:
    """Read a duration. Raises ValueError."""
    if type(value) in (int, float) and 0 < value < math.inf:
        return float(value)
    if isinstance(value, str) and (matched := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*", value)):
        length = float(matched[1]) * _SECONDS[matched[2]]
        if 0 < length < math.inf:
            return length
    raise ValueError(f"it is {shown(value)}, but must be seconds, above 0, or text such as 90s, 30min, 2h or 1.5d.")


#: Seconds.
Duration = Annotated[float, BeforeValidator(seconds), WithJsonSchema({"type": ["number", "string"]})]
