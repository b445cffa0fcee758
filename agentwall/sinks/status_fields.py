# SPDX-License-Identifier: Apache-2.0
"""Read what the daemon answered: JSON whose values may be missing, or of another kind. Pure.

Text comes out on one line, bounded and escaped: tenants chose some of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from agentwall.sinks.describe import describe_duration, describe_moment
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.rfc3339 import NS_PER_S, parse_time

Fields = Mapping[str, object]
_MAX_TEXT = 200
_MAX_LABEL = 40


def text(fields: Fields, key: str, longest: int = _MAX_TEXT) -> str:
    """Return text or a number as text; nothing where it is neither."""
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return shorten(printable(str(value)), longest)


def number(fields: Fields, key: str) -> int:
    """Return a number; 0 where there is none, or none that is finite."""
    value = fields.get(key)
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0


def flag(fields: Fields, key: str) -> bool:
    """Say whether it is true, and nothing else."""
    return fields.get(key) is True


def part(fields: Fields, key: str) -> Fields:
    """Return an object; an empty one where there is none."""
    value = fields.get(key)
    return value if isinstance(value, dict) else {}


def parts(fields: Fields, key: str) -> list[Fields]:
    """Return the objects of a list."""
    value = fields.get(key)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def texts(fields: Fields, key: str) -> list[str]:
    """Return the texts of a list."""
    value = fields.get(key)
    if not isinstance(value, list):
        return []
    return [shorten(printable(each), _MAX_TEXT) for each in value if isinstance(each, str)]


def moment(fields: Fields, key: str) -> str:
    """Return a time as date and time of day in UTC; nothing where there is none."""
    time_ns = moment_ns(fields, key)
    return "" if time_ns is None else describe_moment(time_ns)


def moment_ns(fields: Fields, key: str) -> int | None:
    """Return a time, UTC, in nanoseconds since 1970."""
    value = fields.get(key)
    if not isinstance(value, str):
        return None
    try:
        return parse_time(value)
    except ValueError:
        return None


def duration(fields: Fields, key: str) -> str:
    """Return seconds as ``3 h 05 min``."""
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return describe_duration(int(value * NS_PER_S))


def labels(fields: Fields, key: str = "labels") -> str:
    """Return labels as ``episode=17 step=3``."""
    found = part(fields, key)
    return " ".join(
        f"{shorten(printable(name), _MAX_LABEL)}={shorten(printable(str(value)), _MAX_LABEL)}"
        for name, value in sorted(found.items())
    )


def counts(fields: Fields, key: str) -> list[tuple[str, int]]:
    """Return the numbers of an object that are not 0, by name."""
    found = part(fields, key)
    return [(printable(name), number(found, name)) for name in found if number(found, name)]
