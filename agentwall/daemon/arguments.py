# SPDX-License-Identifier: Apache-2.0
"""The arguments of requests on the control socket, checked and typed. Pure.

Every function takes the arguments as they came and raises a :class:`ControlError` with the code
``invalid`` that names the argument. Arguments that a request does not have are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from agentwall.daemon.handles import MAX_HANDLE
from agentwall.errors import ControlCode, ControlError
from agentwall.flow.verdict import Mode
from agentwall.sinks.escape import printable, shorten

MAX_LABELS = 64
MAX_LABEL_VALUE = 1024
"""Characters, as they are printed: a control character counts for the four of its escape."""
MAX_REASON = 500
MIN_FOR_S = 1.0
MAX_FOR_S = 86_400.0
MAX_ANNOTATIONS = 1024
MAX_ANNOTATION = 262_144
"""Kubernetes permits so much of all the annotations of a pod together."""
_MAX_PATH = 4096
_MAX_SHOWN = 60
_LABEL_KEY = re.compile(r"[A-Za-z0-9_.\-/]{1,128}", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")

Arguments = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest:
    """``sandbox-label``."""

    sandbox: str
    changes: Mapping[str, str | None]
    """None removes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRequest:
    """``sandbox-mode``."""

    sandbox: str | None
    """None: all of them."""
    mode: Mode | None
    """None: what the policies say, from now on."""
    for_s: float | None
    """None: until somebody ends it."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialsRequest:
    """``denials``."""

    sandbox: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitRequest:
    """``admit``."""

    pid: int
    container: str | None
    bundle: str | None
    labels: Mapping[str, str]
    """OCI labels and annotations."""
    policy: str | None


def read_nothing(arguments: Arguments) -> None:
    """Read what takes no arguments: ``status``, ``sandbox-list``, ``detach``."""
    _expect(arguments)


def read_sandbox(arguments: Arguments) -> str:
    """Read ``sandbox-show`` and ``release``: a handle for :func:`~.handles.resolve`."""
    _expect(arguments, "sandbox")
    return _handle(arguments)


def read_label(arguments: Arguments) -> LabelRequest:
    """Read ``sandbox-label``."""
    _expect(arguments, "sandbox", "labels")
    changes: dict[str, str | None] = {}
    for key, value in _object(arguments, "labels").items():
        _check_label_key(key)
        changes[key] = None if value is None else _label_value(key, value)
    if not changes:
        raise _invalid("labels", "expected at least one")
    if len(changes) > 2 * MAX_LABELS:
        raise _invalid("labels", f"expected at most {MAX_LABELS}, got {len(changes)}")
    return LabelRequest(sandbox=_handle(arguments), changes=changes)


def merge_labels(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return *labels* with *changes* made.

    Raises:
        ControlError: There would be too many.
    """
    merged = dict(labels)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    if len(merged) > MAX_LABELS and len(merged) > len(labels):
        raise _invalid("labels", f"expected at most {MAX_LABELS} in all, got {len(merged)}")
    return merged


def read_mode(arguments: Arguments) -> ModeRequest:
    """Read ``sandbox-mode``."""
    _expect(arguments, "sandbox", "mode", "for_s", "reason")
    for key in ("sandbox", "mode"):
        # Forgotten, they would mean all of them, and the end.
        if key not in arguments:
            raise _invalid(key, "expected a value or null, got nothing")
    mode = _mode(arguments["mode"])
    for_s = _for_s(arguments.get("for_s"), mode)
    return ModeRequest(
        sandbox=None if arguments["sandbox"] is None else _handle(arguments),
        mode=mode,
        for_s=for_s,
        reason=_text(arguments, "reason", MAX_REASON),
    )


def read_denials(arguments: Arguments) -> DenialsRequest:
    """Read ``denials``."""
    _expect(arguments, "sandbox", "labels")
    labels = {}
    for key, value in _object(arguments, "labels").items():
        _check_label_key(key)
        labels[key] = _label_value(key, value)
    if len(labels) > MAX_LABELS:
        raise _invalid("labels", f"expected at most {MAX_LABELS}, got {len(labels)}")
    return DenialsRequest(sandbox=_handle(arguments), labels=labels)


def read_admit(arguments: Arguments) -> AdmitRequest:
    """Read ``admit``."""
    _expect(arguments, "pid", "container", "bundle", "labels", "policy")
    pid = arguments.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 1 << 31:
        raise _invalid("pid", f"expected a process, got {_shown(pid)}")
    labels = {}
    for key, value in _object(arguments, "labels").items():
        if not isinstance(value, str):
            raise _invalid(f"labels.{_shown_key(key)}", f"expected text, got {_shown(value)}")
        if _SURROGATE.search(key) or _SURROGATE.search(value):
            raise _invalid(f"labels.{_shown_key(key)}", "expected Unicode text")
        labels[key] = value
    if len(labels) > MAX_ANNOTATIONS:
        raise _invalid("labels", f"expected at most {MAX_ANNOTATIONS}, got {len(labels)}")
    size = sum(len(key) + len(value) for key, value in labels.items())
    if size > MAX_ANNOTATION:
        raise _invalid("labels", f"expected at most {MAX_ANNOTATION} characters, got {size}")
    return AdmitRequest(
        pid=pid,
        container=_optional_text(arguments, "container", _MAX_PATH),
        bundle=_optional_text(arguments, "bundle", _MAX_PATH),
        labels=labels,
        policy=_optional_text(arguments, "policy", _MAX_PATH),
    )


def read_wait(arguments: Arguments) -> bool:
    """Read ``reload``: whether to answer when it is over, and not when it has begun."""
    _expect(arguments, "wait")
    return _flag(arguments, "wait")


def read_keep(arguments: Arguments) -> bool:
    """Read ``stop``: whether sandboxes stay behind their walls."""
    _expect(arguments, "keep")
    return _flag(arguments, "keep")


def _expect(arguments: Arguments, *known: str) -> None:
    for key in arguments:
        if key not in known:
            raise _invalid(_shown_key(key), "there is no such argument")


def _handle(arguments: Arguments) -> str:
    return _text(arguments, "sandbox", MAX_HANDLE)


def _text(arguments: Arguments, key: str, longest: int) -> str:
    value = arguments.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _invalid(key, f"expected text, got {_shown(value)}")
    if len(value) > longest:
        raise _invalid(key, f"expected at most {longest} characters, got {len(value)}")
    if _SURROGATE.search(value):
        raise _invalid(key, "expected Unicode text")
    return value


def _optional_text(arguments: Arguments, key: str, longest: int) -> str | None:
    return None if arguments.get(key) is None else _text(arguments, key, longest)


def _flag(arguments: Arguments, key: str) -> bool:
    value = arguments.get(key, True)
    if not isinstance(value, bool):
        raise _invalid(key, f"expected true or false, got {_shown(value)}")
    return value


def _object(arguments: Arguments, key: str) -> Mapping[str, object]:
    value = arguments.get(key, {})
    if not isinstance(value, dict):
        raise _invalid(key, f"expected an object, got {_shown(value)}")
    return value


def _check_label_key(key: str) -> None:
    if not _LABEL_KEY.fullmatch(key):
        what = "expected 1 to 128 of the characters A-Z a-z 0-9 _ . - / as a name"
        raise _invalid(f"labels.{_shown_key(key)}", what)


def _label_value(key: str, value: object) -> str:
    where = f"labels.{key}"
    if not isinstance(value, str):
        raise _invalid(where, f"expected text, got {_shown(value)}")
    # First what is cheap: printed, a megabyte becomes many.
    length = len(value) if len(value) > MAX_LABEL_VALUE else len(printable(value))
    if length > MAX_LABEL_VALUE:
        raise _invalid(where, f"expected at most {MAX_LABEL_VALUE} characters, got {length}")
    if _SURROGATE.search(value):
        raise _invalid(where, "expected Unicode text")
    return value


def _mode(value: object) -> Mode | None:
    if value is None:
        return None
    try:
        return Mode(value)
    except ValueError:
        names = ", ".join(mode.value for mode in Mode)
        raise _invalid("mode", f"expected {names} or null, got {_shown(value)}") from None


def _for_s(value: object, mode: Mode | None) -> float | None:
    if value is None:
        if mode not in (Mode.ENFORCE, None):
            raise _invalid("for_s", f"expected how long, in seconds: {mode.value} ends by itself")
        return None
    if mode is None:
        raise _invalid("for_s", "expected nothing: the end has no duration")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and MIN_FOR_S <= (for_s := cast(float, value)) <= MAX_FOR_S:
        return float(for_s)
    limits = f"{MIN_FOR_S:.0f} to {MAX_FOR_S:.0f} seconds"
    raise _invalid("for_s", f"expected {limits}, got {_shown(value)}")


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool() | int() | float():
            return shorten(repr(value), _MAX_SHOWN)
        case str():
            return shorten(printable(value[:_MAX_SHOWN]), _MAX_SHOWN) or "empty text"
        case list():
            return "a list"
        case _:
            return "an object"


def _shown_key(key: str) -> str:
    return shorten(printable(key[:_MAX_SHOWN]), _MAX_SHOWN)


def _invalid(where: str, problem: str) -> ControlError:
    return ControlError(ControlCode.INVALID, f"{where}: {problem}")
