# SPDX-License-Identifier: Apache-2.0
"""Whom a command runs as."""

from __future__ import annotations

import os
import pwd

import pytest

from agentwall.errors import HostError
from agentwall.host.identity import resolve_identity

NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="sudo's variables count for root only")


@pytest.mark.parametrize("user", ["nobody", str(NOBODY.pw_uid)])
def test_asked_for(user):
    """--user takes a name or a number, beats sudo, and changes HOME, USER and LOGNAME."""
    identity = resolve_identity(user, {"SUDO_UID": "0"})

    assert (identity.uid, identity.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert NOBODY.pw_gid in identity.groups
    assert identity.environment == {
        "HOME": NOBODY.pw_dir,
        "USER": "nobody",
        "LOGNAME": "nobody",
    }


@pytest.mark.parametrize("user", ["", "no-such-user", "-1", "99999999999999999999", "٣"])
def test_unknown(user):
    """A user that does not exist is an error that names it."""
    with pytest.raises(HostError, match="no such user"):
        resolve_identity(user, {})


@needs_root
def test_sudo():
    """Under sudo a command runs as the user who called it."""
    identity = resolve_identity(None, {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": "0"})

    assert (identity.uid, identity.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


@needs_root
def test_sudo_without_account():
    """A calling user without an account is known by sudo's numbers alone."""
    identity = resolve_identity(None, {"SUDO_UID": "54321", "SUDO_GID": "54322"})

    assert (identity.uid, identity.gid, identity.groups) == (54321, 54322, (54322,))
    assert identity.environment == {}


@needs_root
@pytest.mark.parametrize("variables", [{"SUDO_UID": "x"}, {"SUDO_UID": "54321"}])
def test_sudo_unusable(variables):
    """Variables of sudo that name nobody are an error: root is no fallback."""
    with pytest.raises(HostError):
        resolve_identity(None, variables)


def test_caller():
    """Without either, the command runs as the caller and the environment stays."""
    identity = resolve_identity(None, {})

    assert (identity.uid, identity.gid) == (os.geteuid(), os.getegid())
    assert identity.environment == {}
