# SPDX-License-Identifier: Apache-2.0
"""Real containers of podman and of a dockerd of the test's own, without any registry.

Both engines keep everything below a scratch directory, take their one image from busybox, use runc
and put a container into ``<parent>/libpod-<id>`` (podman) or ``<parent>/<id>`` (docker), for the
layout with both versions of cgroups as well. Neither touches the host's network.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rig.cgroup import cgroup_root, temp_cgroup
from rig.process import run_checked, running
from rig.scratch import scratch

IMAGE = "agentwall-test:1"
FOREVER = ("/bin/sleep", "1000000")
_BUSYBOX = Path("/usr/bin/busybox")
_SETTLE_S = 5.0
# Without CAP_SYS_RESOURCE no limit can be raised above what this process has.
_LIMITS = ("--ulimit", "nofile=20000:20000")


def spelled(cgroup: Path) -> str:
    """Return the path of the directory *cgroup* as /proc/<pid>/cgroup spells it."""
    return "/" + cgroup.relative_to(cgroup_root()).as_posix()


@dataclass(frozen=True, kw_only=True)
class Container:
    """One running container."""

    engine: Engine
    id: str
    """64 hexadecimal digits."""
    pid: int
    """Of its first process, in our pid namespace."""

    @property
    def cgroup(self) -> str:
        """The cgroup of its first process, as /proc/<pid>/cgroup spells it."""
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                return line.removeprefix("0::")
        raise RuntimeError(f"container {self.id}: expected a cgroup of version 2, got none")

    @property
    def directory(self) -> Path:
        """The directory of :attr:`cgroup`."""
        return cgroup_root() / self.cgroup.lstrip("/")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run *command* inside (``exec``); whatever it exits with."""
        words = self.engine.command("exec", self.id, *command)
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)

    def inspect(self) -> dict[str, object]:
        """Return what the engine says about it."""
        documents = json.loads(self.engine.call("inspect", self.id))
        assert isinstance(documents[0], dict)
        return documents[0]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What starts containers."""

    name: str
    """``podman`` or ``docker``."""
    directory: Path
    """Everything it keeps is below."""
    prefix: tuple[str, ...]
    """The client with the options that name this engine."""
    run_options: tuple[str, ...]
    socket: Path | None
    """Where it answers, for Docker; see :func:`podman_service`."""

    def command(self, *words: str) -> list[str]:
        """Return the client's command line."""
        return [*self.prefix, *words]

    def call(self, *words: str) -> str:
        """Run the client, which must succeed; return what it printed."""
        return run_checked(*self.command(*words))

    @contextmanager
    def sandbox(
        self,
        parent: Path,
        *command: str,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        network: str = "none",
        options: Sequence[str] = (),
    ) -> Iterator[Container]:
        """Run a container below the cgroup directory *parent*; remove it at the end.

        *command* is :data:`FOREVER` if not given. *network* is ``none``, ``host``, or for podman
        ``ns:/run/netns/X``. *options* are further words for ``run``.

        Raises:
            RuntimeError: It did not start; the message holds what the client wrote to stderr.
        """
        words = ["--cgroup-parent", spelled(parent), "--network", network]
        if name is not None:
            words += ["--name", name]
        for key, value in (labels or {}).items():
            words += ["--label", f"{key}={value}"]
        words += [*self.run_options, *options, IMAGE, *(command or FOREVER)]
        with without_hierarchies_of_version_1(spelled(parent)):
            identity = self.call("run", "-d", *words).split()[-1]
            try:
                pid = int(self.call("inspect", "-f", "{{.State.Pid}}", identity))
                yield Container(engine=self, id=identity, pid=pid)
            finally:
                self.remove(identity)

    def remove(self, *containers: str) -> None:
        """Kill and remove *containers*, which need not exist any more."""
        times = ["-t", "0"] if self.name == "podman" else []
        words = self.command("rm", "-f", *times, *containers)
        subprocess.run(words, capture_output=True, check=False, timeout=120)

    def remove_all(self) -> None:
        """Kill and remove every container of this engine."""
        if containers := self.call("ps", "-a", "-q", "--no-trunc").split():
            self.remove(*containers)


@contextmanager
def podman_engine(
    *options: str, runtime: str | Path = "runc", enter: Sequence[str] = ()
) -> Iterator[Engine]:
    """Prepare podman with a storage of its own.

    Args:
        options: Global ones, such as ``--hooks-dir``.
        runtime: What makes the containers, by name or path.
        enter: Words before podman's, which end in running it.
    """
    with scratch("podman") as directory:
        places = {"--root": "root", "--runroot": "run", "--tmpdir": "tmp"}
        storage = [word for key, name in places.items() for word in (key, str(directory / name))]
        choices = ("--cgroup-manager", "cgroupfs", "--events-backend", "file")
        engine = Engine(
            name="podman",
            directory=directory,
            prefix=(
                *(*enter, "/usr/bin/podman", "--runtime", str(runtime)),
                *(*storage, *choices, *options),
            ),
            run_options=(*_LIMITS, "--ulimit", "nproc=1000:1000"),
            socket=None,
        )
        with _with_image(engine):
            yield engine


@contextmanager
def podman_service(engine: Engine) -> Iterator[Path]:
    """Let podman serve its HTTP API; yield the socket."""
    path = engine.directory / "podman.sock"
    command = engine.command("system", "service", "-t", "0", f"unix://{path}")
    log = engine.directory / "service.log"
    with running(command, log=log, ready=lambda: _listens(path)):
        yield path


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def private_dockerd(*options: str, enter: Sequence[str] = ()) -> Iterator[Engine]:
    """Run a dockerd of our own.

    Args:
        options: Further words for it, such as ``--add-runtime``.
        enter: Words before its own, which end in becoming it: its network is the containers' that
            have the host's.
    """
    with scratch("dockerd") as directory:
        path = directory / "docker.sock"
        command = [
            *(*enter, "/usr/sbin/dockerd", "-H", f"unix://{path}", "-p", str(directory / "pid")),
            *("--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
            *("--ip-forward=false", "--ip-masq=false"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
            *("--default-ulimit", "nofile=20000:20000", *options),
        ]
        engine = Engine(
            name="docker",
            directory=directory,
            prefix=("/usr/bin/docker", "-H", f"unix://{path}"),
            run_options=(),
            socket=path,
        )
        log = directory / "dockerd.log"
        with (
            without_mounts(directory),
            running(command, log=log, ready=lambda: succeeds(*engine.command("version"))),
            _with_image(engine),
        ):
            yield engine


def succeeds(*command: str) -> bool:
    """Say whether *command* exits with 0."""
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0


@contextmanager
def podman_sandbox(
    *command: str,
    parent: Path | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    network: str = "none",
    options: Sequence[str] = (),
    engine_options: Sequence[str] = (),
) -> Iterator[Container]:
    """Run one container with an engine of its own, below *parent* or a new cgroup.

    The other arguments are those of :meth:`Engine.sandbox` and :func:`podman_engine`.
    """
    with ExitStack() as stack:
        engine = stack.enter_context(podman_engine(*engine_options))
        below = parent or stack.enter_context(temp_cgroup("podman"))
        yield stack.enter_context(
            engine.sandbox(
                below, *command, name=name, labels=labels, network=network, options=options
            )
        )


@contextmanager
def _with_image(engine: Engine) -> Iterator[None]:
    # Mounts that are left would keep the scratch directory from being removed.
    with without_mounts(engine.directory):
        _import_image(engine)
        try:
            yield
        finally:
            engine.remove_all()


def _import_image(engine: Engine) -> None:
    tree, archive = engine.directory / "image", engine.directory / "image.tar"
    make_tree(tree)
    run_checked("tar", "-C", tree, "-cf", archive, ".")
    engine.call("import", str(archive), IMAGE)


def make_tree(tree: Path) -> None:
    """Make the root directory *tree* of an image with busybox alone."""
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (tree / name).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(_BUSYBOX.read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    for applet in run_checked(_BUSYBOX, "--list").split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")


@contextmanager
def without_mounts(directory: Path) -> Iterator[None]:
    """Unmount in the end what is mounted below *directory*."""
    try:
        yield
    finally:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines]
        for point in sorted(points, reverse=True):
            if point.startswith(f"{directory}/"):
                subprocess.run(["umount", "-l", point], check=False, capture_output=True)


@contextmanager
def without_hierarchies_of_version_1(cgroup: str) -> Iterator[None]:
    """Remove in the end what runtimes make of *cgroup*, as :func:`spelled`, in other hierarchies.

    There is one of the container's in each, and podman's for conmon; the test has made, and
    removes, that of version 2 alone.
    """
    try:
        yield
    finally:
        if cgroup_root() != Path("/sys/fs/cgroup"):
            deadline = time.monotonic() + _SETTLE_S
            for hierarchy in cgroup_root().parent.iterdir():
                if hierarchy != cgroup_root() and not hierarchy.is_symlink():
                    _remove_empty(hierarchy / cgroup.lstrip("/"), deadline)


def _remove_empty(top: Path, deadline: float) -> None:
    while top.is_dir() and time.monotonic() < deadline:
        for directory, _, _ in os.walk(top, topdown=False):
            # Busy until conmon has noticed, or while another container is there.
            with suppress(OSError):
                Path(directory).rmdir()
        if top.is_dir() and any(entry.name != "conmon" for entry in top.glob("*/")):
            return
        time.sleep(0.005)
