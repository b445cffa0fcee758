# SPDX-License-Identifier: Apache-2.0
"""The lines of the control protocol: requests decoded, answers encoded. Pure.

Counterpart in :mod:`agentwall.client`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from agentwall.client import MAX_ANSWER, SCHEMA
from agentwall.errors import ControlCode, ControlError
from agentwall.sinks.escape import printable, shorten, without_surrogates

DEFECT = "a defect of agentwall; its log has more"
_MAX_NAME = 60
_MAX_MESSAGE = 1 << 16

_LOGGER = logging.getLogger(__name__)


def decode_request(line: bytes) -> tuple[str, dict[str, object]]:
    """Return the name and the arguments of a request.

    Raises:
        ControlError: It is none.
    """
    try:
        document = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        raise ControlError(ControlCode.INVALID, f"expected JSON: {shown(str(err))}") from err
    if not isinstance(document, dict):
        raise ControlError(ControlCode.INVALID, "expected a JSON object")
    schema, name = document.pop("schema", None), document.pop("request", None)
    if schema != SCHEMA:
        raise ControlError(ControlCode.INVALID, f"schema: expected {SCHEMA}")
    if not isinstance(name, str):
        raise ControlError(ControlCode.INVALID, "request: expected a name")
    return name, document


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def asked_for(line: bytes) -> str:
    """Return what a stranger's *line* asks for, for the log alone."""
    if not line:
        return ""
    try:
        return decode_request(line)[0]
    except ControlError:
        return "something unreadable"


def shown(text: str) -> str:
    """Return what a client chose, short and escaped."""
    return shorten(printable(text), _MAX_NAME)


def encode_result(result: Mapping[str, object]) -> bytes:
    """Return the answer to a request that was carried out, as a line."""
    try:
        line = _encode({"schema": SCHEMA, "ok": True, "result": result})
    except (TypeError, ValueError):
        _LOGGER.exception("control: an answer that is no JSON")
        return encode_error(ControlError(ControlCode.FAILED, DEFECT))
    if len(line) > MAX_ANSWER:
        size = f"the answer has {len(line)} bytes, more than {MAX_ANSWER}"
        return encode_error(ControlError(ControlCode.FAILED, size))
    return line


def encode_error(error: ControlError) -> bytes:
    """Return the answer to a request that was not, as a line."""
    message = shorten(without_surrogates(str(error)), _MAX_MESSAGE)
    described = {"code": error.code.value, "message": message}
    return _encode({"schema": SCHEMA, "ok": False, "error": described})


def _encode(document: object) -> bytes:
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"
