# SPDX-License-Identifier: Apache-2.0
"""Privileges are given up for good."""

from __future__ import annotations

import platform
import shutil

import pytest

from agentwall.host.capabilities import DROPPED, mask
from agentwall.host.privileges import knows_ioctl

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


@pytest.mark.skipif(not knows_ioctl(platform.machine()), reason="no filter for this machine")
@pytest.mark.parametrize("number", ["0x5412", "0x541c", "0x100005412"])
def test_typing_refused(run_inside, number):
    """Pushing input into a terminal is refused, whatever the upper bits of the request say."""
    code = (
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True); "
        "master, slave = os.openpty(); "
        f"r = libc.ioctl(slave, ctypes.c_ulong({number}), b'x'); print(r, ctypes.get_errno())"
    )

    assert run_inside(f'python3 -c "{code}"')[1] == "-1 1\n"


def test_other_ioctls_work(run_inside):
    """Other requests reach the terminal's driver."""
    code = "import os; master, slave = os.openpty(); print(os.get_terminal_size(slave).columns)"

    assert run_inside(f'python3 -c "{code}"') == (0, "0\n")


def test_filter_knows_its_machine():
    """A machine whose system call numbers are not known gets no wrong filter."""
    assert not knows_ioctl("pdp11")
