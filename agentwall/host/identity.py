# SPDX-License-Identifier: Apache-2.0
"""Whom a command runs as: the user who called sudo, the one that was asked for, or the caller."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.errors import HostError


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user with everything setting it needs."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups."""
    environment: Mapping[str, str]
    """HOME, USER and LOGNAME where they change; empty where the user stays."""


def resolve_identity(user: str | None, environment: Mapping[str, str]) -> Identity:
    """Return whom to run as: *user* (a name or a number), else sudo's caller, else the caller.

    Raises:
        HostError: There is no such user.
    """
    if user is not None:
        return _from_account(_account(user))
    if os.geteuid() == 0 and (sudo_uid := environment.get("SUDO_UID")):
        return _from_sudo(sudo_uid, environment)
    return Identity(
        uid=os.geteuid(), gid=os.getegid(), groups=tuple(os.getgroups()), environment={}
    )


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError) as err:
        raise HostError(f"user {user!r}: no such user") from err


def _from_account(account: pwd.struct_passwd) -> Identity:
    return Identity(
        uid=account.pw_uid,
        gid=account.pw_gid,
        groups=tuple(os.getgrouplist(account.pw_name, account.pw_gid)),
        environment={
            "HOME": account.pw_dir,
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
        },
    )


def _from_sudo(sudo_uid: str, environment: Mapping[str, str]) -> Identity:
    try:
        return _from_account(_account(str(int(sudo_uid))))
    except ValueError as err:
        raise HostError(f"SUDO_UID: expected a number, got {sudo_uid!r}") from err
    except HostError:
        # A user without an account, as LDAP users in a container are: the numbers suffice.
        gid = environment.get("SUDO_GID", "")
        if not gid.isascii() or not gid.isdigit():
            raise
        return Identity(uid=int(sudo_uid), gid=int(gid), groups=(int(gid),), environment={})
