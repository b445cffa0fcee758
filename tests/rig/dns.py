# SPDX-License-Identifier: Apache-2.0
"""dnsmasq on the lab's far side, and what it was asked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.lab import Lab
from rig.process import running
from rig.scratch import scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServer:
    """A running dnsmasq."""

    address: str
    log: Path

    def questions(self) -> list[tuple[str, str, str]]:
        """Return (type, name, peer) of every question that arrived, in order."""
        return re.findall(r"query\[(\S+)\] (\S+) from (\S+)", self.log.read_text(errors="replace"))

    def forget(self) -> None:
        """Empty the log; dnsmasq appends to it."""
        self.log.write_text("")


@contextmanager
def name_server(lab: Lab, address: str, names: dict[str, str]) -> Iterator[NameServer]:
    """Answer for *names* (name -> address) at *address*, UDP and TCP port 53; deny all others."""
    with scratch("dnsmasq") as directory:
        log = directory / "log"
        records = [f"--host-record={name},{target}" for name, target in names.items()]
        command = lab.far_command(
            shutil.which("dnsmasq") or "/usr/sbin/dnsmasq",
            # Nothing of the machine: no configuration, hosts, resolvers, user or pid file.
            *("--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"),
            *("--user=root", f"--pid-file={directory}/pid", "--log-facility=-", "--log-queries"),
            *("--bind-interfaces", f"--listen-address={address}", "--local=//"),
            *records,
        )
        with running(command, log=log, ready=lambda: lab.far.listens(53)):
            yield NameServer(address=address, log=log)
