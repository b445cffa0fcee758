# SPDX-License-Identifier: Apache-2.0
"""Deputies: processes outside a sandbox that, asked over a unix socket, resolve names or start
programs for it, where no rule sees them.

glibc asks nscd before it reads nsswitch.conf, nss-resolve asks systemd-resolved, and D-Bus leads to
the latter and to systemd, which starts what it is told to. ``run`` leaves their sockets out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from agentwall.errors import HostError
from agentwall.host.veil import Veil

_RESOLVES = "names resolve unseen by a sandbox that can reach it"
_STARTS = "a sandbox that can reach it may have programs started and names resolved outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deputy:
    """One service and its socket."""

    name: str
    socket: str
    """Where clients look for it, with no symbolic link on the way."""
    mask: str
    """What is left out: the socket, or a directory that has nothing but sockets."""
    base: str = "/run"
    """Above *mask*; stays while the host runs, as a :class:`Veil`'s directory has to."""
    danger: str = _RESOLVES


DEPUTIES = (
    Deputy(name="nscd", socket="/run/nscd/socket", mask="/run/nscd"),
    Deputy(
        name="systemd-resolved",
        socket="/run/systemd/resolve/io.systemd.Resolve",
        mask="/run/systemd/resolve/io.systemd.Resolve",
    ),
    Deputy(
        name="systemd-resolved's monitor",
        socket="/run/systemd/resolve/io.systemd.Resolve.Monitor",
        mask="/run/systemd/resolve/io.systemd.Resolve.Monitor",
    ),
    Deputy(
        name="D-Bus",
        socket="/run/dbus/system_bus_socket",
        mask="/run/dbus",
        danger=_STARTS,
    ),
    Deputy(
        name="systemd",
        socket="/run/systemd/private",
        mask="/run/systemd/private",
        danger=_STARTS,
    ),
    Deputy(
        name="systemd's manager",
        socket="/run/systemd/io.systemd.Manager",
        mask="/run/systemd/io.systemd.Manager",
        danger=_STARTS,
    ),
    Deputy(
        name="systemd-machined",
        socket="/run/systemd/machine/io.systemd.Machine",
        mask="/run/systemd/machine",
        danger=_STARTS,
    ),
    Deputy(name="Avahi", socket="/run/avahi-daemon/socket", mask="/run/avahi-daemon"),
    Deputy(name="mDNSResponder", socket="/run/mdnsd", mask="/run/mdnsd"),
    Deputy(name="nslcd", socket="/run/nslcd/socket", mask="/run/nslcd"),
    Deputy(name="winbind", socket="/run/samba/winbindd/pipe", mask="/run/samba/winbindd"),
    Deputy(
        name="SSSD",
        socket="/var/lib/sss/pipes/nss",
        mask="/var/lib/sss/pipes",
        base="/var/lib/sss",
    ),
)


def deputies_for(uid: int) -> tuple[Deputy, ...]:
    """Return all deputies, the user's own D-Bus and systemd among them."""
    own = f"/run/user/{uid}"
    names = (("the user's D-Bus", f"{own}/bus"), ("the user's systemd", f"{own}/systemd/private"))
    return (
        *DEPUTIES,
        *(Deputy(name=name, socket=path, mask=path, danger=_STARTS) for name, path in names),
    )


def present(deputies: Iterable[Deputy]) -> tuple[Deputy, ...]:
    """Return those whose socket is there, whether or not somebody listens now."""
    return tuple(deputy for deputy in deputies if _is_socket(deputy.socket))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def kept_deputies(deputies: Iterable[Deputy], paths: Iterable[str]) -> tuple[Deputy, ...]:
    """Return the deputies to leave in place, one for each of *paths*: its mask, or below it.

    Raises:
        HostError: A path is of no deputy, so it would not be left out in the first place.
    """
    among = tuple(deputies)
    return tuple(dict.fromkeys(_deputy_at(path, among) for path in paths))


def is_of(path: str, deputy: Deputy) -> bool:
    """Say whether *path* is what is left out with *deputy*, or lies below it."""
    # /var/run is /run.
    return PurePath(os.path.realpath(path)).is_relative_to(deputy.mask)


def _deputy_at(path: str, deputies: tuple[Deputy, ...]) -> Deputy:
    for deputy in deputies:
        if is_of(path, deputy):
            return deputy
    known = ", ".join(deputy.socket for deputy in deputies)
    raise HostError(f"socket {path}: expected one that is masked: {known}")


def veils_without(deputies: Iterable[Deputy]) -> tuple[Veil, ...]:
    """Return the veils that leave *deputies* out."""
    absent: dict[str, set[tuple[str, ...]]] = {}
    for deputy in deputies:
        parts = PurePath(deputy.mask).relative_to(deputy.base).parts
        absent.setdefault(deputy.base, set()).add(parts)
    return tuple(
        Veil(directory=Path(base), absent=frozenset(paths)) for base, paths in absent.items()
    )
