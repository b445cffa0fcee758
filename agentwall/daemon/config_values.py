# SPDX-License-Identifier: Apache-2.0
"""The values of the daemon's configuration, as types that pydantic validates.

Each takes what YAML gives and comes out checked, or says ``expected X, got Y``. The keys they stand
under are in :mod:`agentwall.daemon.config_document`.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from agentwall.daemon.inside_state import TlsUse
from agentwall.net.destination import parse_destination
from agentwall.net.endpoint import L4Protocol
from agentwall.policy import globs
from agentwall.policy.problems import show
from agentwall.policy.values import NAME_PATTERN

MAX_PATH_BYTES = 4095
"""``PATH_MAX`` without its NUL."""
MAX_SOCKET_BYTES = 107
"""``sun_path`` of unix(7) without its NUL."""
MIN_LOG_BYTES = 64 << 10
MAX_LOG_BYTES = 1 << 40

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What useradd(8) and groupadd(8) take, and the capitals that directories have.
_GROUP = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"
_SIZE = re.compile(r"([1-9][0-9]{0,9})(KiB|MiB|GiB)", re.ASCII)
_UNITS = {"KiB": 10, "MiB": 20, "GiB": 30}
_MOUNTS = ("/sys/fs/cgroup",)


def _path(value: object, what: str = "an absolute path") -> str:
    if not isinstance(value, str) or not value.startswith("/") or _CONTROL.search(value):
        raise ValueError(f"expected {what}, got {show(value)}")
    names = value[1:].removesuffix("/").split("/")
    if any(name in ("", ".", "..") for name in names):
        problem = "without empty names, '.' and '..'" if value != "/" else "below '/'"
        raise ValueError(f"expected {what} {problem}, got {show(value)}")
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > MAX_PATH_BYTES:
        raise ValueError(f"expected at most {MAX_PATH_BYTES} bytes, got {size}")
    return value.removesuffix("/")


def _socket_path(value: object) -> str:
    path = _path(value)
    if (size := len(path.encode("utf-8", "surrogatepass"))) > MAX_SOCKET_BYTES:
        raise ValueError(f"expected at most {MAX_SOCKET_BYTES} bytes for a socket, got {size}")
    return path


def _cgroup(value: object) -> str:
    if value == "/":
        raise ValueError(
            "expected a cgroup below the root, got '/': that would be every process of the host"
        )
    path = _path(value, "a cgroup such as /agentwall.slice")
    for mount in _MOUNTS:
        if f"{path}/".startswith(f"{mount}/"):
            within = path.removeprefix(mount).removeprefix("/unified") or "/agentwall.slice"
            raise ValueError(
                f"expected it as /proc/PID/cgroup spells it, such as {within}, got {show(value)}"
            )
    return path


def cgroup_of(value: object) -> str | None:
    """Return the cgroup that *value* of ``scopes[].cgroup`` stands for, or None if it is wrong."""
    try:
        return _cgroup(value)
    except ValueError:
        return None


def _glob(value: object) -> str:
    if not isinstance(value, str) or _CONTROL.search(value):
        raise ValueError(f"expected a path from the root, with or without stars, got {show(value)}")
    if fault := globs.fault(value):
        raise ValueError(fault)
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME_PATTERN, value):
        raise ValueError(f"expected the name of a policy, got {show(value)}")
    return value


def _group(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(_GROUP, value):
        raise ValueError(f"expected the name of a group, got {show(value)}")
    return value


def _listen(value: object) -> str:
    try:
        if not isinstance(value, str):
            raise ValueError
        remote = parse_destination(value)
        if remote.protocol != L4Protocol.TCP:
            raise ValueError
    except ValueError as err:
        problem = f"expected an address and a port such as 127.0.0.1:9477, got {show(value)}"
        raise ValueError(problem) from err
    host = f"[{remote.address}]" if remote.address.version == 6 else str(remote.address)
    return f"{host}:{remote.port}"


def is_loopback(listen: str) -> bool:
    """Say whether only this host reaches the address of a checked ``metrics.listen``."""
    return parse_destination(listen).address.is_loopback


def _bytes(value: object) -> int:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        found = int(match[1]) << _UNITS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        raise ValueError(f"expected bytes, or a size such as 256MiB, got {show(value)}")
    if not MIN_LOG_BYTES <= found <= MAX_LOG_BYTES:
        raise ValueError(f"expected 64KiB-1024GiB, got {show(value)}")
    return found


def _tls_use(value: object) -> str:
    # YAML reads a plain off as false.
    text = TlsUse.OFF.value if value is False else value
    if not isinstance(text, str) or text not in [use.value for use in TlsUse]:
        raise ValueError(f"expected auto, off or require, got {show(value)}")
    return text


def _word(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"expected text (quote it), got {show(value)}")
    return value


def program_fault(word: str) -> str | None:
    """Return what is wrong with *word* as the program of a command, or None."""
    try:
        _path(word, "a program by its absolute path")
    except ValueError as err:
        return str(err)
    return None


def _whole_number(low: int, high: int, unit: str) -> tuple[PlainValidator, WithJsonSchema]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected {low}-{high} {unit}, got {show(value)}")
        return value

    return PlainValidator(check), WithJsonSchema(
        {"type": "integer", "minimum": low, "maximum": high}
    )


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


_BYTES_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": MIN_LOG_BYTES, "maximum": MAX_LOG_BYTES},
        {"type": "string", "pattern": f"^{_SIZE.pattern}$"},
    ]
}

Path = Annotated[str, PlainValidator(_path), _text("^/.")]
SocketPath = Annotated[str, PlainValidator(_socket_path), _text("^/.")]
Cgroup = Annotated[str, PlainValidator(_cgroup), _text("^/.")]
Glob = Annotated[str, PlainValidator(_glob), _text("^/.")]
Name = Annotated[str, PlainValidator(_name), _text(f"^{NAME_PATTERN}$")]
Group = Annotated[str, PlainValidator(_group), _text(f"^{_GROUP}$")]
Listen = Annotated[str, PlainValidator(_listen), WithJsonSchema({"type": "string"})]
Bytes = Annotated[int, PlainValidator(_bytes), WithJsonSchema(_BYTES_SCHEMA)]
CommandWord = Annotated[str, PlainValidator(_word), WithJsonSchema({"type": "string"})]
Use = Annotated[
    str,
    PlainValidator(_tls_use),
    WithJsonSchema({"type": "string", "enum": [use.value for use in TlsUse]}),
]
Libraries = Annotated[int, *_whole_number(1, 1024, "libraries")]
Rotations = Annotated[int, *_whole_number(0, 1000, "files")]
Seconds = Annotated[int, *_whole_number(1, 600, "seconds")]
Rate = Annotated[int, *_whole_number(0, 10_000, "a minute")]
