# SPDX-License-Identifier: Apache-2.0
"""Which socket families of this host no hook sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentwall.host.exposure import has_vsock
from agentwall.host.socket_families import loadable, unseen_families

ALIASES = b"alias net-pf-21 rds\nalias net-pf-30 tipc\nalias net-pf-43 smc\nalias net-pf-2 ipv4\n"


@pytest.mark.parametrize(
    ("configuration", "left"),
    [
        (b"", ["RDS", "TIPC", "SMC"]),
        (b"alias net-pf-21 off\n", ["TIPC", "SMC"]),
        (b"# blacklist rds\nblacklist  tipc\n", ["RDS", "SMC"]),
        (b"install smc /bin/false\ninstall rds /sbin/modprobe x\n", ["RDS", "TIPC"]),
        (b"blacklist rds\nblacklist tipc\ninstall smc /bin/true", []),
    ],
)
def test_loadable(configuration, left):
    """A family counts unless modprobe is told to leave its module alone."""
    assert list(loadable(ALIASES, configuration)) == left


def test_no_modules():
    """Without aliases nothing would be loaded."""
    assert list(loadable(b"alias net-pf-2 ipv4\n", b"")) == []


def test_this_host():
    """What the kernel has registered is named, and to ask does not register anything."""
    before = registered()

    assert ("vsock" in unseen_families()) is has_vsock()
    assert registered() == before


def registered() -> set[str]:
    """Those that are asked for: other tests may have others registered at the same time."""
    lines = Path("/proc/net/protocols").read_text().splitlines()
    return {line.split()[0] for line in lines} & {"RDS", "TIPC", "SMC", "SMC6", "AF_VSOCK"}
