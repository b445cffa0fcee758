# SPDX-License-Identifier: Apache-2.0
"""dnsmasq on the far side: it knows one name."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS, Ground, run
from bench.policies import PERMITTED_NAME

_START_S = 60.0
_TTL_S = 3600


@contextmanager
def name_server(ground: Ground) -> Iterator[None]:
    """Answer for the permitted name at port 53 of the far address; there are no other names."""
    command = ground.outside(
        # As the probe: what else runs here shall not keep answers waiting.
        *("nice", "-n", "-20", "dnsmasq"),
        # Nothing of the machine: no configuration, hosts, resolvers, user or pid file.
        *("--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"),
        *("--user=root", "--pid-file=", "--log-facility=-", "--local=//"),
        *("--bind-interfaces", f"--listen-address={FAR_ADDRESS}"),
        f"--host-record={PERMITTED_NAME},{LOCAL_ADDRESS},{_TTL_S}",
    )
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as server:
        try:
            _await_listener(ground)
            yield
        finally:
            server.terminate()


def _await_listener(ground: Ground) -> None:
    deadline = time.monotonic() + _START_S
    while FAR_ADDRESS not in run(*ground.outside("ss", "-Hlun", "sport", "=", ":53")):
        if time.monotonic() > deadline:
            raise RuntimeError(f"dnsmasq: not listening after {_START_S} s")
        time.sleep(0.02)
