# SPDX-License-Identifier: Apache-2.0
"""Three ways to make a container, behind one face: podman with crun, Docker, and containerd.

Each asks a daemon before the container starts if it is to: podman by its hooks, the others by the
runtime that they call in runc's place. All join a namespace that leads somewhere.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rig.cgroup import cgroup_root
from rig.containerd import Containerd, image_name, place_words, private_containerd
from rig.containers import (
    FOREVER,
    Container,
    Engine,
    podman_service,
    private_dockerd,
    spelled,
)
from rig.crun import crun_engine, missing_crun, write_crun
from rig.daemon import Daemon
from rig.namespace import Namespace

_HOOK = (sys.executable, "-I", "-m", "agentwall.cli.admission")
_RUNC = (sys.executable, "-I", "-m", "agentwall.cli.oci_runtime")
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a container is started."""

    image: str
    parent: Path
    """A cgroup's directory."""
    command: tuple[str, ...] = FOREVER
    asks: bool = True
    """Whether the daemon is asked before."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """They are labels as well, where a container has those."""
    variables: Mapping[str, str] = field(default_factory=dict)

    def words(self, **options: Mapping[str, str]) -> list[str]:
        """Return ``--option=key=value`` for each of these *options*."""
        return [
            f"--{name}={key}={text}" for name, each in options.items() for key, text in each.items()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A container that runs."""

    id: str
    pid: int
    """Of its first process."""
    directory: Path
    """Of its cgroup."""
    run: Callable[..., subprocess.CompletedProcess[str]]
    """Runs a command inside."""


class Maker(Protocol):
    """What makes containers."""

    runtime: str
    """How their origin is called."""
    socket: Path
    """Where the daemon may ask, or beside it look."""
    annotates: bool
    """Whether who starts one can give it annotations."""

    def load(self, archive: Path, image: str) -> None:
        """Take the files in *archive* for an image."""

    def run(self, start: Start) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""

    def box(self, start: Start) -> AbstractContextManager[Box]:
        """Run a container for the length of the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMaker:
    """Podman or Docker."""

    engine: Engine
    asking: tuple[tuple[str, ...], tuple[str, ...]]
    """What makes it ask: words before ``run``, and words after."""
    network: str
    runtime: str
    socket: Path
    annotates: bool
    top: Path = field(default_factory=cgroup_root)
    """The cgroup that it takes for the root."""
    program: Path | None = None
    """Of podman: a runtime that asks by itself."""

    def load(self, archive: Path, image: str) -> None:
        """Take the files in *archive* for an image."""
        self.engine.call("import", str(archive), image)

    def run(self, start: Start) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        return subprocess.run(
            self._words(start, "--rm"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )

    @contextmanager
    def box(self, start: Start) -> Iterator[Box]:
        """Run a container for the length of the block."""
        done = subprocess.run(
            self._words(start, "-d"), capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
        identity = done.stdout.split()[-1]
        try:
            pid = int(self.engine.call("inspect", "-f", "{{.State.Pid}}", identity))
            made = Container(engine=self.engine, id=identity, pid=pid)
            yield Box(id=identity, pid=pid, directory=made.directory, run=made.run)
        finally:
            self.engine.remove(identity)

    def _words(self, start: Start, ending: str) -> list[str]:
        before, after = self.asking if start.asks else ((), ())
        parent = Path("/", start.parent.relative_to(self.top))
        where = ["--network", self.network, "--cgroup-parent", str(parent)]
        options = start.words(label=start.annotations, env=start.variables)
        options += start.words(annotation=start.annotations) if self.annotates else []
        words = [*before, "run", ending, *after, *where, *self.engine.run_options, *options]
        return self.engine.command(*words, start.image, *start.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerdMaker:
    """Containerd, through ``ctr``."""

    containerd: Containerd
    program: Path
    """The runtime that asks."""
    hook: tuple[str, ...]
    """What it makes ask."""
    network: Namespace
    snapshotter: str = "overlayfs"
    runtime: str = "containerd"
    annotates: bool = True

    @property
    def socket(self) -> Path:
        """Beside it are the bundles."""
        return self.containerd.socket

    def load(self, archive: Path, image: str) -> None:
        """Take the files in *archive* for an image."""
        self.containerd.load(archive, image, self.snapshotter)

    def run(self, start: Start) -> subprocess.CompletedProcess[str]:
        """Run a container to its end; it is called as by hand, and its cgroup likewise."""
        return self.containerd.run(*self._words(start, f"by-hand-{secrets.token_hex(4)}"))

    @contextmanager
    def box(self, start: Start) -> Iterator[Box]:
        """Run a container for the length of the block; its id is one as nerdctl gives them."""
        identity, made = secrets.token_hex(32), self.containerd
        made.call(*made.start_words(detached=True), *self._words(start, identity))
        try:
            yield Box(
                id=identity,
                pid=made.pid_of(identity),
                directory=start.parent / identity,
                run=lambda *command: made.run_in(identity, *command),
            )
        finally:
            made.remove(identity)

    def run_configured(self, start: Start) -> subprocess.CompletedProcess[str]:
        """Run a container by a configuration of its own, in which the hook is; it is always asked.

        Its root is a directory for containerd, and its options are those of runc.
        """
        identity, made = f"configured-{secrets.token_hex(4)}", self.containerd
        with made.mounted(start.image) as root:
            path = made.directory / f"{identity}.json"
            path.write_text(json.dumps(self._configuration(start, identity, root)))
            return made.run("--config", str(path), identity)

    def _configuration(self, start: Start, identity: str, root: Path) -> dict[str, object]:
        found = json.loads(self.containerd.call("oci", "spec"))
        found["root"] = {"path": str(root)}
        found["process"]["args"] = list(start.command)
        found["process"]["env"] = ["PATH=/usr/bin:/bin"]
        found["linux"]["cgroupsPath"] = f"{spelled(start.parent)}/{identity}"
        for each in found["linux"]["namespaces"]:
            if each["type"] == "network":
                each["path"] = str(self.network.path)
        found["annotations"] = dict(start.annotations)
        stages = {"createRuntime": self.hook, "poststop": (*self.hook, "--release")}
        found["hooks"] = {
            stage: [{"path": words[0], "args": list(words), "timeout": 15}]
            for stage, words in stages.items()
        }
        return found

    def _words(self, start: Start, identity: str) -> list[str]:
        words = ["--snapshotter", self.snapshotter, f"--with-ns=network:{self.network.path}"]
        words += ["--runc-binary", str(self.program)] if start.asks else []
        words += place_words(start.parent, identity, start.annotations)
        words += start.words(env=start.variables)
        return [*words, image_name(start.image), identity, *start.command]


def hook_words(socket: Path, *options: str) -> tuple[str, ...]:
    """Return the command line of the hook that asks the daemon at *socket*."""
    return (*_HOOK, f"--socket={socket}", *options)


def missing_containerd() -> str | None:
    """Return why there is none here, or None if there is."""
    absent = [each for each in ("containerd", "ctr", "runc") if shutil.which(each) is None]
    return f"no {', '.join(absent)} here" if absent else None


@contextmanager
def by_crun(directory: Path, daemon: Daemon, network: Namespace) -> Iterator[EngineMaker]:
    """Prepare podman with crun, whose hooks ask *daemon*; it sees its scope alone."""
    hooks = directory / "hooks.d"
    hooks.mkdir()
    for stage, options in (("createRuntime", ()), ("poststop", ("--release",))):
        words = hook_words(daemon.socket, *options)
        document = {
            "version": "1.0.0",
            "hook": {"path": words[0], "args": words, "timeout": 15},
            "when": {"always": True},
            "stages": [stage],
        }
        (hooks / f"agentwall-{stage}.json").write_text(json.dumps(document))
    crun = write_crun(directory)
    program = _write_runtime(directory, daemon.socket, f"AGENTWALL_RUNC={crun} ")
    with crun_engine(daemon.scope, crun) as engine, podman_service(engine) as service:
        yield EngineMaker(
            engine=engine,
            asking=(("--hooks-dir", str(hooks)), ()),
            network=f"ns:{network.path}",
            runtime="podman",
            socket=service,
            annotates=True,
            top=daemon.scope,
            program=program,
        )


@contextmanager
def by_docker(directory: Path, daemon: Daemon, network: Namespace) -> Iterator[EngineMaker]:
    """Run a dockerd in *network*, whose runtime ``agentwall`` asks *daemon*."""
    program = _write_runtime(directory, daemon.socket)
    options = ("--add-runtime", f"agentwall={program}")
    with private_dockerd(*options, enter=network.inside()) as engine:
        assert engine.socket is not None, "it is Docker"
        yield EngineMaker(
            engine=engine,
            asking=((), ("--runtime", "agentwall")),
            network="host",
            runtime="docker",
            socket=engine.socket,
            # Docker has it from version 24 on.
            annotates="--annotation" in engine.call("run", "--help"),
        )


@contextmanager
def by_containerd(directory: Path, daemon: Daemon, network: Namespace) -> Iterator[ContainerdMaker]:
    """Run a containerd; the runtime that asks *daemon* is in runc's place."""
    program = _write_runtime(directory, daemon.socket)
    with private_containerd() as made:
        yield ContainerdMaker(
            containerd=made, program=program, hook=hook_words(daemon.socket), network=network
        )


def _write_runtime(directory: Path, socket: Path, variables: str = "") -> Path:
    program = directory / "agentwall-runc"
    command = f"{variables}exec {' '.join(_RUNC)} --agentwall-socket={socket}"
    program.write_text(f'#!/bin/sh\n{command} "$@"\n')
    program.chmod(0o755)
    return program


MISSING: Mapping[Callable[..., AbstractContextManager[Maker]], Callable[[], str | None]] = {
    by_crun: missing_crun,
    by_containerd: missing_containerd,
    by_docker: lambda: None if shutil.which("dockerd") else "no dockerd here",
}
"""Why one of them is not to be had here."""
