# SPDX-License-Identifier: Apache-2.0
"""Socket families of this host that no hook sees, and that lead out of a network namespace.

Others need a capability, the host's namespace or a device. Nothing is tried: making a socket would
load its module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agentwall.host.exposure import has_vsock

_FAMILIES = {"RDS": (21, "rds"), "TIPC": (30, "tipc"), "SMC": (43, "smc")}
"""Their numbers (``include/linux/socket.h``) and modules. vsock is asked for in another way."""
_MODPROBE_DIRECTORIES = (
    Path("/etc/modprobe.d"),
    Path("/run/modprobe.d"),
    Path("/usr/lib/modprobe.d"),
    Path("/lib/modprobe.d"),
)
_MAX_ALIAS_BYTES = 16 << 20
_MAX_CONFIG_BYTES = 1 << 18
_MAX_CONFIGS = 256


def unseen_families() -> tuple[str, ...]:
    """Return the families by name: those that are there, or whose module the kernel would load."""
    found = [name for name in _FAMILIES if name in _registered()]
    loadable = [name for name in _loadable() if name not in found]
    return (*(("vsock",) if has_vsock() else ()), *found, *loadable)


def _registered() -> frozenset[str]:
    try:
        lines = Path("/proc/net/protocols").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset(_FAMILIES)
    return frozenset(line.split(" ")[0] for line in lines.splitlines())


def _loadable() -> Iterator[str]:
    if not Path("/proc/modules").exists():
        return
    try:
        with Path("/lib/modules", os.uname().release, "modules.alias").open("rb") as file:
            aliases = file.read(_MAX_ALIAS_BYTES)
    except OSError:
        # In a container without the host's modules: what is not known is not closed.
        aliases = b"".join(b"alias net-pf-%d \n" % number for number, _ in _FAMILIES.values())
    yield from loadable(aliases, b"\n".join(_configurations()))


def loadable(aliases: bytes, configuration: bytes) -> Iterator[str]:
    """Yield the families whose module the kernel would load.

    Args:
        aliases: Content of modules.alias.
        configuration: Of modprobe, as modprobe.d(5) has it.
    """
    words = {tuple(line.split()[:3]) for line in configuration.splitlines()}
    for name, (number, module) in _FAMILIES.items():
        alias = b"net-pf-%d" % number
        is_off = (
            (b"alias", alias, b"off") in words
            or (b"blacklist", module.encode()) in words
            or any(
                (b"install", module.encode(), path) in words
                for path in (b"/bin/false", b"/bin/true", b"/usr/bin/false", b"/usr/bin/true")
            )
        )
        if b"alias %s " % alias in aliases and not is_off:
            yield name


def _configurations() -> Iterator[bytes]:
    files = [path for base in _MODPROBE_DIRECTORIES for path in base.glob("*.conf")]
    for path in files[:_MAX_CONFIGS]:
        try:
            with path.open("rb") as file:
                yield file.read(_MAX_CONFIG_BYTES)
        except OSError:
            continue
