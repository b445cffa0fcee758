# SPDX-License-Identifier: Apache-2.0
"""Real DNS servers on the lab's far side, and what they were asked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.lab import Lab
from rig.process import running
from rig.scratch import scratch

UNKNOWN_IS_NXDOMAIN = ("--address=/#/",)
_DNSMASQ_LINE = re.compile(r"query\[(\S+)\] (\S+) from (\S+)")
_UNBOUND_LINE = re.compile(r"info: (\S+) (\S+)\. (\S+) IN$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServer:
    """A running dnsmasq or unbound."""

    address: str
    log: Path

    def questions(self) -> list[tuple[str, str, str]]:
        """Return (type, name, peer) of every question that arrived, in order."""
        text = self.log.read_text(errors="replace")
        if found := _DNSMASQ_LINE.findall(text):
            return found
        return [(kind, name, peer) for peer, name, kind in _UNBOUND_LINE.findall(text)]

    def forget(self) -> None:
        """Empty the log; the server appends to it."""
        self.log.write_text("")


@contextmanager
def name_server(
    lab: Lab,
    address: str,
    names: dict[str, str],
    *,
    aliases: dict[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[NameServer]:
    """Answer for *names* (name -> address) at *address*, UDP and TCP port 53; deny all others.

    *aliases* (name -> name) become CNAME records; *options* are dnsmasq's own: REFUSED is what all
    others get, and NXDOMAIN with UNKNOWN_IS_NXDOMAIN.
    """
    with scratch("dnsmasq") as directory:
        log = directory / "log"
        records = [f"--host-record={name},{target}" for name, target in names.items()]
        records += [f"--cname={name},{target}" for name, target in (aliases or {}).items()]
        command = lab.far_command(
            shutil.which("dnsmasq") or "/usr/sbin/dnsmasq",
            # Nothing of the machine: no configuration, hosts, resolvers, user or pid file.
            *("--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"),
            *("--user=root", f"--pid-file={directory}/pid", "--log-facility=-", "--log-queries"),
            *("--bind-interfaces", f"--listen-address={address}", "--local=//"),
            *records,
            *options,
        )
        with running(command, log=log, ready=lambda: lab.far.listens(53, address)):
            yield NameServer(address=address, log=log)


def find_unbound() -> str | None:
    """Return the path of unbound, if it is installed."""
    return shutil.which("unbound") or shutil.which("/usr/sbin/unbound")


_UNBOUND = """
server:
  interface: {address}
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  username: ""
  chroot: ""
  directory: "{directory}"
  pidfile: "{directory}/pid"
  use-syslog: no
  logfile: ""
  log-queries: yes
  do-daemonize: no
  module-config: "iterator"
auth-zone:
  name: "."
  zonefile: "{zone}"
  for-upstream: no
remote-control:
  control-enable: no
"""
_START_OF_ZONE = "$TTL 60\n. SOA ns. admin. 1 3600 600 86400 60\n. NS ns.\nns. A 192.0.2.1"


@contextmanager
def unbound(lab: Lab, address: str, records: Sequence[str]) -> Iterator[NameServer]:
    """Answer with *records*, written as in a zone file, at *address*; NXDOMAIN for all others.

    Raises:
        FileNotFoundError: unbound is not installed.
    """
    program = find_unbound()
    if program is None:
        raise FileNotFoundError("unbound: not installed")
    with scratch("unbound") as directory:
        configuration, zone = directory / "unbound.conf", directory / "zone"
        log = directory / "log"
        configuration.write_text(_UNBOUND.format(address=address, directory=directory, zone=zone))
        zone.write_text("\n".join((_START_OF_ZONE, *records, "")))
        command = lab.far_command(program, "-d", "-c", configuration)
        with running(command, log=log, ready=lambda: lab.far.listens(53, address)):
            yield NameServer(address=address, log=log)
