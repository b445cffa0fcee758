# SPDX-License-Identifier: Apache-2.0
"""Times as events write them: RFC 3339, UTC, nanoseconds. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

NS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def format_time(time_ns: int) -> str:
    """Return *time_ns* (UTC, since 1970) as ``2026-01-31T12:00:00.123456789Z``."""
    seconds, rest = divmod(time_ns, NS_PER_S)
    return f"{_format_second(seconds)}.{rest:09d}Z"


@lru_cache(maxsize=64)
def _format_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def parse_time(text: str) -> int:
    """Return the nanoseconds since 1970 that an RFC 3339 *text* stands for.

    Raises:
        ValueError: ``expected X, got Y``.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an RFC 3339 time with an offset, got {text!r}")
    seconds = _parse_second(f"{match[1]}T{match[2]}{match[4].upper()}")
    return seconds * NS_PER_S + int((match[3] or "").ljust(9, "0"))


@lru_cache(maxsize=64)
def _parse_second(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return (moment - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError) as err:
        raise ValueError(f"expected an RFC 3339 time, got {text!r}: {err}") from err
