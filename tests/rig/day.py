# SPDX-License-Identifier: Apache-2.0
"""A host with a daemon, podman containers in network namespaces, and real servers beyond them.

The servers are in the lab's far namespace; containers are in ``near``, or in ``side``, which has a
road of its own to far. The policies are in a git checkout. A container holds a puppet.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import puppet as puppet_file
from rig.containers import Container, Engine, podman_engine
from rig.daemon import Daemon, daemon_ground
from rig.dns import UNKNOWN_IS_NXDOMAIN, NameServer, name_server
from rig.lab import NEAR4, OUTSIDE, PERMITTED, Lab, lab
from rig.listeners import Server, tcp_server
from rig.namespace import Namespace, temp_netns
from rig.process import run_checked, stop
from rig.puppet import PATIENCE_S, Puppet
from rig.stratum import stratum_server

RESOLVER = "198.51.100.53"
HUB, POOL, EVIL = "hub.example.com", "pool.example.com", "evil.example.net"
POOL_ADDRESS = "203.0.113.33"
NAMES = {HUB: PERMITTED, POOL: POOL_ADDRESS, EVIL: OUTSIDE}
WEB_PORT, OTHER_PORT, POOL_PORT, INBOUND_PORT = 80, 8080, 3333, 8000
SIDE_NEAR, SIDE_FAR = "10.99.0.1", "10.99.0.2"
_LONG_ID = 64
"""Characters of a container's id."""
RULES = f"""
dns: {{servers: [{RESOLVER}]}}
allow:
  - {{host: {HUB}, ports: [{WEB_PORT}]}}
  - {{host: {POOL}, ports: [{POOL_PORT}]}}
inbound:
  - {{cidr: {PERMITTED}, ports: [{INBOUND_PORT}]}}
"""
"""What the policies of these tests permit, unless a test says something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A container, and the puppet in it."""

    container: Container
    puppet: Puppet

    @property
    def id(self) -> str:
        """The container's id."""
        return self.container.id

    def reaches(self, address: str, port: int = WEB_PORT) -> int:
        """Connect; return 0, or the errno."""
        opened = self.puppet.open("tcp", address)
        try:
            opened.connect(address, port)
        except OSError as err:
            return err.errno or -1
        finally:
            opened.close()
        return 0

    def looks_up(self, name: str) -> list[str] | int:
        """Return the addresses of *name*, or the number of getaddrinfo's error."""
        try:
            return self.puppet.resolve(name)
        except OSError as err:
            return err.errno or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Everything there is."""

    daemon: Daemon
    lab: Lab
    side: Namespace
    podman: Engine
    """With the hook."""
    resolver: NameServer
    hub: Server
    other: Server
    """At the hub's address, on a port that no rule opens."""
    evil: Server
    pool: Server

    @contextmanager
    def box(
        self,
        policy: str | None,
        *,
        where: Namespace | None = None,
        labels: dict[str, str] | None = None,
        engine: Engine | None = None,
    ) -> Iterator[Box]:
        """Run a container with a puppet, admitted by the hook with the policy it asks for.

        Args:
            policy: None: it asks for none.
            where: ``near`` unless given.
            labels: Of its annotations.
            engine: With the hook, unless given.
        """
        annotations = {f"io.agentwall.{key}": text for key, text in (labels or {}).items()}
        if policy is not None:
            annotations["io.agentwall.policy"] = policy
        words = [w for k, v in annotations.items() for w in ("--annotation", f"{k}={v}")]
        program = Path(puppet_file.__file__)
        # Python and its libraries are the host's, which the image has not.
        for place in (*_PYTHON, str(program)):
            words += ["--volume", f"{place}:{place}:ro"]
        words += ["--dns", RESOLVER, "--dns-search", "."]
        engine = engine or self.podman
        where = where or self.lab.near
        with (
            engine.sandbox(
                self.daemon.scope, network=f"ns:{where.path}", options=words
            ) as container,
            _puppet_in(container, program) as hand,
        ):
            yield Box(container=container, puppet=hand)

    def commit(self, message: str) -> str:
        """Commit what is in the directory of policies; return the commit."""
        where = self.daemon.policies
        run_checked("git", "-C", where, "add", "--all")
        run_checked("git", "-C", where, *_IDENTITY, "commit", "-q", "-m", message)
        return run_checked("git", "-C", where, "rev-parse", "HEAD").strip()

    def call(self, port: int, source: str = PERMITTED, timeout_s: float = 1.0) -> socket.socket:
        """Return a connection from *source*, on far, to the near side."""
        caller = self.lab.far.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            caller.settimeout(timeout_s)
            caller.bind((source, 0))
            caller.connect((NEAR4, port))
        except OSError:
            caller.close()
            raise
        return caller

    def told(self, kind: str, sandbox: str) -> list[dict[str, object]]:
        """Return the events of a kind about the sandbox of this container or id, until now."""
        # By its own id, a container's in short: by no other is it known once it has ended.
        name = sandbox[:12] if len(sandbox) == _LONG_ID else sandbox
        with self.daemon.client() as client:
            # This alone is answered only once the kernel has nothing more to tell.
            client.denials(name)
        return [each for each in self.daemon.events(kind) if each["sandbox"]["id"] == name]


_IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.com")
_PYTHON = tuple(sorted({"/usr", "/lib", "/lib64", sys.base_prefix}))


@contextmanager
def _puppet_in(container: Container, program: Path) -> Iterator[Puppet]:
    python = str(Path(sys.executable).resolve())
    words = (python, "-I", "-S", str(program), str(PATIENCE_S))
    command = container.engine.command("exec", "-i", container.id, *words)
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Puppet(child)
    finally:
        stop(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def day(directory: Path, *policies: tuple[str, str], more: str = "") -> Iterator[Day]:
    """Prepare a day; the daemon is not started yet.

    Args:
        directory: For the daemon's files.
        policies: Names and bodies.
        more: Of the configuration.
    """
    with ExitStack() as stack:
        enter = stack.enter_context
        daemon = enter(daemon_ground(directory))
        for name, text in policies:
            daemon.policy(name, text)
        daemon.configure(more)
        made, side = enter(lab()), enter(temp_netns("side"))
        _give_road(made, side)
        made_day = Day(
            daemon=daemon,
            lab=made,
            side=side,
            podman=enter(podman_engine("--hooks-dir", str(_hooks(daemon)))),
            resolver=enter(name_server(made, RESOLVER, NAMES, options=UNKNOWN_IS_NXDOMAIN)),
            hub=enter(tcp_server(made.far, PERMITTED, WEB_PORT)),
            other=enter(tcp_server(made.far, PERMITTED, OTHER_PORT)),
            evil=enter(tcp_server(made.far, OUTSIDE, WEB_PORT)),
            pool=enter(stratum_server(made.far, POOL_ADDRESS, POOL_PORT)),
        )
        run_checked("git", "-C", daemon.policies, "init", "-q")
        made_day.commit("begin")
        yield made_day


def _give_road(made: Lab, side: Namespace) -> None:
    side.ip("link", "add", "side0", "type", "veth", "peer", "name", "side1", "netns", made.far.name)
    side.ip("address", "add", f"{SIDE_NEAR}/24", "dev", "side0")
    side.ip("link", "set", "side0", "up")
    made.far.ip("address", "add", f"{SIDE_FAR}/24", "dev", "side1")
    made.far.ip("link", "set", "side1", "up")
    side.ip("route", "add", "default", "via", SIDE_FAR)


def _hooks(daemon: Daemon) -> Path:
    """Write podman's hook, which asks *daemon*; return the directory it is in."""
    directory = daemon.directory / "hooks"
    directory.mkdir()
    command = [sys.executable, "-I", "-m", "agentwall.cli.admission", f"--socket={daemon.socket}"]
    document = {
        "version": "1.0.0",
        "hook": {"path": command[0], "args": command, "timeout": 15},
        "when": {"always": True},
        "stages": ["createRuntime"],
    }
    (directory / "agentwall.json").write_text(json.dumps(document))
    return directory
