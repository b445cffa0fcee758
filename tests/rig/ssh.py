# SPDX-License-Identifier: Apache-2.0
"""OpenSSH's server on the lab's far side: own keys, own accounts, and a trap behind the tunnel.

Whoever logs in gets no shell. The server's forced command goes through the reverse tunnel that
the client asked for, reads what is there, and keeps it: proof that the tunnel carried something.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.lab import Lab
from rig.process import run_checked, running
from rig.scratch import scratch

USER = "agent"
"""The account that may log in; it exists in the server's own passwd only."""

_CONFIGURATION = """
ListenAddress {address}:22
HostKey /run/lab/host_key
PidFile none
UsePAM no
StrictModes no
AuthorizedKeysFile /run/lab/authorized_keys
AuthenticationMethods publickey
PermitRootLogin no
AllowTcpForwarding remote
LogLevel VERBOSE
ForceCommand /run/lab/through-tunnel
"""

_FORCED_COMMAND = """#!/bin/bash
# The client says in its command which port it had forwarded.
exec 3<>"/dev/tcp/127.0.0.1/${SSH_ORIGINAL_COMMAND//[^0-9]/}" &&
	head -n 1 <&3 | tee -a /run/lab/loot
"""

# sshd insists on /run/sshd and on accounts; it gets its own, in a mount namespace of its own. The
# scratch directory is seen as /run/lab, for its own path may lead through private directories.
_MOUNTS = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 755 /run/sshd /run/lab
mount --bind "$0" /run/lab
mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/shadow" /etc/shadow
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshServer:
    """A running sshd."""

    address: str
    client_key: Path
    known_hosts: Path
    log: Path
    loot_file: Path

    def loot(self) -> bytes:
        """Return what came out of reverse tunnels at this end."""
        return self.loot_file.read_bytes()

    def logins(self) -> int:
        """Return how many times a client was let in."""
        return self.log.read_text(errors="replace").count("Accepted publickey for")

    def forget(self) -> None:
        """Forget logins and loot; both files are appended to."""
        self.log.write_text("")
        self.loot_file.write_bytes(b"")

    def client_command(self, key: Path, *options: str) -> list[str]:
        """Return an ``ssh`` that logs in with *key*, a copy of :attr:`client_key`."""
        return [
            *("ssh", "-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "ExitOnForwardFailure=yes"),
            *(*options, f"{USER}@{self.address}"),
        ]


@contextmanager
def ssh_server(lab: Lab, address: str) -> Iterator[SshServer]:
    """Run sshd at *address*, port 22, with a host key and an account of its own."""
    with scratch("sshd") as directory:
        server = _prepare(directory, address)
        command = lab.far_command(
            *("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _MOUNTS),
            directory,
            *(shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", "/run/lab/config"),
        )
        with running(command, log=server.log, ready=lambda: lab.far.listens(22)):
            yield server


def _prepare(directory: Path, address: str) -> SshServer:
    for key in ("host_key", "client_key"):
        run_checked("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key)
    host_key = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"{address} {host_key}")
    (directory / "authorized_keys").write_text((directory / "client_key.pub").read_text())
    (directory / "home").mkdir()
    (directory / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n"
        "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
        f"{USER}:x:65532:65532::/run/lab/home:/bin/bash\n"
    )
    (directory / "shadow").write_text(f"root:*:::::::\nsshd:*:::::::\n{USER}:*:::::::\n")
    (directory / "config").write_text(_CONFIGURATION.format(address=address))
    forced = directory / "through-tunnel"
    forced.write_text(_FORCED_COMMAND)
    forced.chmod(0o755)
    loot = directory / "loot"
    loot.touch()
    loot.chmod(0o666)
    return SshServer(
        address=address,
        client_key=directory / "client_key",
        known_hosts=directory / "known_hosts",
        log=directory / "log",
        loot_file=loot,
    )
