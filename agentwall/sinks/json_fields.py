# SPDX-License-Identifier: Apache-2.0
"""Fields of a JSON object, each of the type that it has to have. Pure.

An object may come from anywhere, so nothing in it is taken on trust. Whatever is wrong raises
:class:`EventFormatError`, ``KEY: expected X, got Y``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NoReturn, TypeVar, cast

from agentwall.errors import AgentwallError

Document = Mapping[str, object]
_Choice = TypeVar("_Choice", bound=enum.Enum)
_LAST_U64 = 0xFFFF_FFFF_FFFF_FFFF


class EventFormatError(AgentwallError, ValueError):
    """A line is not an event of a schema this version reads."""


def choice_of(document: Document, key: str, choices: type[_Choice]) -> _Choice:
    """Return the member of *choices* whose value stands under *key*."""
    value = document.get(key)
    found = choices._value2member_map_.get(value) if isinstance(value, str) else None
    if found is None:
        fail(key, "one of " + ", ".join(str(choice.value) for choice in choices), value)
    return cast("_Choice", found)


def object_of(document: Document, key: str) -> dict[str, object]:
    """Return the object under *key*."""
    value = document.get(key)
    if not isinstance(value, dict):
        fail(key, "an object", value)
    return value


def text_of(document: Document, key: str) -> str:
    """Return the text under *key*."""
    value = document.get(key)
    if not isinstance(value, str):
        fail(key, "text", value)
    return value


def optional_text(document: Document, key: str) -> str | None:
    """Return the text under *key*; None where it is null or absent."""
    return None if document.get(key) is None else text_of(document, key)


def texts_of(document: Document, key: str) -> tuple[str, ...]:
    """Return the list of texts under *key*."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        fail(key, "a list of text", value)
    return tuple(value)


def flag_of(document: Document, key: str) -> bool:
    """Return the truth value under *key*."""
    value = document.get(key)
    if not isinstance(value, bool):
        fail(key, "true or false", value)
    return value


def number_of(document: Document, key: str) -> int:
    """Return the whole number under *key*, 0 to 2**64 - 1."""
    value = document.get(key)
    if type(value) is not int or not 0 <= value <= _LAST_U64:
        fail(key, "a whole number of 64 bits", value)
    return value


def optional_number(document: Document, key: str) -> int | None:
    """Return the whole number under *key*; None where it is null or absent."""
    return None if document.get(key) is None else number_of(document, key)


def fail(key: str, expected: str, got: object) -> NoReturn:
    """Raise EventFormatError about *key*."""
    raise EventFormatError(f"{key}: expected {expected}, got {brief(got)}")


def brief(value: object) -> str:
    """Return *value* in at most 62 characters."""
    match value:
        case None:
            return "nothing"
        case str():
            return repr(value if len(value) <= 60 else value[:57] + "...")
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return repr(value)[:60]
