# SPDX-License-Identifier: Apache-2.0
"""Capabilities by name (capabilities(7), ``include/uapi/linux/capability.h``), as masks. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agentwall.errors import HostError

_NUMBERS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "LINUX_IMMUTABLE": 9,
    "NET_BIND_SERVICE": 10,
    "NET_BROADCAST": 11,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "IPC_LOCK": 14,
    "IPC_OWNER": 15,
    "SYS_MODULE": 16,
    "SYS_RAWIO": 17,
    "SYS_CHROOT": 18,
    "SYS_PTRACE": 19,
    "SYS_PACCT": 20,
    "SYS_ADMIN": 21,
    "SYS_BOOT": 22,
    "SYS_NICE": 23,
    "SYS_RESOURCE": 24,
    "SYS_TIME": 25,
    "SYS_TTY_CONFIG": 26,
    "MKNOD": 27,
    "LEASE": 28,
    "AUDIT_WRITE": 29,
    "AUDIT_CONTROL": 30,
    "SETFCAP": 31,
    "MAC_OVERRIDE": 32,
    "MAC_ADMIN": 33,
    "SYSLOG": 34,
    "WAKE_ALARM": 35,
    "BLOCK_SUSPEND": 36,
    "AUDIT_READ": 37,
    "PERFMON": 38,
    "BPF": 39,
    "CHECKPOINT_RESTORE": 40,
}

DROPPED = frozenset(
    {
        "NET_RAW",
        "NET_ADMIN",
        "BPF",
        "PERFMON",
        "SYS_ADMIN",
        "SYS_PTRACE",
        "SYS_MODULE",
        # Ways to the kernel's memory, or to the files of a mount that is hidden.
        "SYS_RAWIO",
        "SYS_BOOT",
        "DAC_READ_SEARCH",
        "CHECKPOINT_RESTORE",
    }
)
"""What a command is never given unless asked for: each of these leads around the wall."""


def parse_capability(name: str) -> str:
    """Return the plain upper-case name of one of :data:`DROPPED`, ``CAP_`` or not.

    Raises:
        HostError: The name is not one of them, so keeping it would mean nothing.
    """
    plain = name.upper().removeprefix("CAP_")
    if plain not in DROPPED:
        raise HostError(
            f"capability {name!r}: expected one that is dropped ({', '.join(sorted(DROPPED))})"
        )
    return plain


def number(name: str) -> int:
    """Return the number of capability *name*."""
    return _NUMBERS[name]


def mask(names: Iterable[str]) -> int:
    """Return the mask of the capabilities *names*."""
    return sum(1 << _NUMBERS[name] for name in set(names))


def names(mask_: int) -> tuple[str, ...]:
    """Return the names of the known capabilities in *mask_*, by number."""
    return tuple(name for name, index in _NUMBERS.items() if mask_ >> index & 1)
