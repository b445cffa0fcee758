# SPDX-License-Identifier: Apache-2.0
"""Privileges are given up for good."""

from __future__ import annotations

import shutil

import pytest

from agentwall.host.capabilities import DROPPED, mask

pytestmark = pytest.mark.kernel

STATUS = "grep -E '^(Cap|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status"


def status(output: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (x.partition(":") for x in output.splitlines())}


def test_root_without(run_inside):
    """uid 0 has none of the dropped capabilities in any set, nor a way to get one."""
    found = status(run_inside(STATUS)[1])

    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[kind], 16) & mask(DROPPED) == 0
    assert found["NoNewPrivs"] == "1"
    assert int(found["CapEff"], 16) & mask(["CHOWN"])


def test_other_user_without(run_inside):
    """Another user has no capability at all, and the groups of that user alone."""
    found = status(run_inside(STATUS, user="nobody")[1])

    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[kind], 16) == 0
    assert found["NoNewPrivs"] == "1"
    assert set(found["Uid"].split()) == {"65534"}
    assert set(found["Gid"].split()) == {"65534"}
    assert found["Groups"].split() == ["65534"]


@pytest.mark.parametrize("user", [None, "nobody"])
def test_kept(run_inside, user):
    """A capability that is kept works for whatever the command executes, others stay dropped."""
    script = (
        f"{STATUS}; exec python3 -c 'import socket; "
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'"
    )

    code, output = run_inside(script, user=user, capabilities=("NET_RAW",))

    assert code == 0
    assert int(status(output)["CapEff"], 16) & mask(DROPPED) == mask(["NET_RAW"])


def test_setuid_programs_give_nothing(run_inside, public_path):
    """A set-user-ID program runs with the command's own user."""
    program = public_path / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)

    assert run_inside(f"{program} -u", user="nobody") == (0, "65534\n")
