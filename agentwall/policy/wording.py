# SPDX-License-Identifier: Apache-2.0
"""What pydantic found wrong, in the words and places of the policy file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agentwall.errors import SourceLocation
from agentwall.policy.document import NO_PORTS, AllowRule, PolicyDocument
from agentwall.policy.problems import Problems, show
from agentwall.policy.source import Source
from agentwall.policy.values import BASE_PATTERN, NAME_PATTERN, PATH_PATTERN

_Document = TypeVar("_Document", bound=BaseModel)

_EXPECTED = {
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a map",
    "dict_type": "a map",
    "string_too_long": "a shorter text",
    "bool_type": "true or false",
}
_EXPECTED_PATTERN = {
    f"^{NAME_PATTERN}$": "letters, digits, dots, dashes and underscores",
    f"^{BASE_PATTERN}$": "a name relative to this file",
    f"^{PATH_PATTERN}$": "a path",
}


def validate(source: Source, problems: Problems) -> PolicyDocument | None:
    """Return the document in *source*; or None, with what is wrong noted in *problems*."""
    return validate_as(PolicyDocument, source, problems)


def validate_as(model: type[_Document], source: Source, problems: Problems) -> _Document | None:
    """Return what is in *source* as *model*; or None, with what is wrong noted in *problems*."""
    try:
        return model.model_validate(source.data)
    except ValidationError as err:
        errors = err.errors(include_url=False)
    excused = {place for error in errors for place in _excused(error, model)}
    for error in sorted(errors, key=lambda e: _where(e, source)):
        place = _place(error)
        if place not in excused or error["type"] not in ("missing", "too_short"):
            unknown = _is_unknown(error)
            text = _unknown_key(place, _keys(model, place)) if unknown else _problem(error, place)
            problems.add(_where(error, source), place, text)
    return None


def _excused(error: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[str | int, ...]]:
    """Yield places whose own error only repeats this one."""
    place = tuple(error["loc"])
    if _is_unknown(error) and (meant := _meant_key(place, _keys(model, place))):
        yield (*place[:-1], meant)
    elif error["type"] == "too_short" and error["input"]:
        # pydantic counts the valid entries only.
        yield place


def _place(error: ErrorDetails) -> tuple[str | int, ...]:
    place = tuple(error["loc"])
    return (*place, error["ctx"]["key"]) if error["type"] == "at_key" else place


def _is_unknown(error: ErrorDetails) -> bool:
    return error["type"] == "extra_forbidden"


def _where(error: ErrorDetails, source: Source) -> SourceLocation:
    # Of a key that does not belong beside another one, the key is what is wrong.
    misplaced = error["type"] == "at_key" and error["ctx"]["key"] != "host"
    return source.locate(_place(error), key=_is_unknown(error) or misplaced)


def _unknown_key(place: tuple[str | int, ...], keys: list[str]) -> str:
    if place[0] == "inbound" and place[-1] in AllowRule.origins:
        return "expected cidr or cidr_file: of who connects only the address is known"
    if place[-3:-2] == ("deny",) and place[-1] in ("except", "inspect"):
        return "expected it beside an allow or inbound rule: what is denied says nothing"
    if meant := _meant_key(place, keys):
        return f"unknown key; did you mean {meant}?"
    return f"unknown key; expected one of {', '.join(keys)}"


def _meant_key(place: tuple[str | int, ...], keys: list[str]) -> str | None:
    close = difflib.get_close_matches(str(place[-1]), keys, n=1)
    return close[0] if close else None


def _keys(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the map, somewhere in *model*, that *place* is in."""
    steps = iter(place[:-1])
    for step in steps:
        for key, field in model.model_fields.items():
            if step == (field.alias or key):
                model = next(_models(field.annotation))
                if get_origin(field.annotation) is dict:
                    # A name that the file chose, and that may be that of a key.
                    next(steps, None)
                break
    return [field.alias or key for key, field in model.model_fields.items()]


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _problem(error: ErrorDetails, place: tuple[str | int, ...]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "at_key":
        return str(context["problem"])
    if kind == "missing":
        if place[-1] == "ports":
            return NO_PORTS
        return "expected a value, got nothing"
    if kind == "too_short":
        empty = "an empty map" if isinstance(error["input"], dict) else "an empty list"
        return f"expected at least one entry, got {empty}"
    if kind == "too_long":
        return f"expected at most {context['max_length']} entries, got {context['actual_length']}"
    got = show(error["input"])
    if kind in ("enum", "literal_error"):
        return f"expected {context['expected']}, got {got}"
    if kind == "string_pattern_mismatch":
        return f"expected {_EXPECTED_PATTERN[context['pattern']]}, got {got}"
    # What pydantic adds in later versions still reads as a sentence.
    return f"expected {_EXPECTED.get(kind) or error['msg'].lower()}, got {got}"
