# SPDX-License-Identifier: Apache-2.0
"""The image of deploy/Containerfile: built offline on a minimal Debian, run with a pod's rights."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.bcc_trial import SCRIPT
from rig.cgroup import in_cgroup, temp_cgroup
from rig.containers import IMAGE, Container, Engine, podman_engine, spelled
from rig.debian_root import write_debian_root
from rig.package import NotBuiltError, built_deb
from rig.process import run_checked, wait_until
from rig.tree import ROOT

from agentwall import __version__
from agentwall.daemon.config import CONFIG

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

# What dpkg runs, and what the package says that it depends on: whatever else it needs is an error.
BASE = ("base-files", "dpkg", "dash", "coreutils", "debianutils", "diffutils", "findutils", "grep")
DEPENDENCIES = ("python3", "libbpf1", "libc6", "libc-bin", "libgcc-s1", "libstdc++6", "sed")
# What it recommends, and deploy/Containerfile wants.
RECOMMENDED = ("python3-bpfcc",)
# As deploy/kubernetes/daemonset.yaml says.
AS_THE_POD = ("--privileged", "--pid", "host", "--cgroupns", "host", "--read-only")


@pytest.fixture(scope="module")
def engine() -> Engine:
    """podman with a storage of its own, and the image in it."""
    if os.geteuid() != 0 or shutil.which("podman") is None or shutil.which("dpkg-query") is None:
        pytest.skip("needs root, podman and dpkg")
    with podman_engine() as found:
        yield found


@pytest.fixture(scope="module")
def built(engine, tmp_path_factory) -> str:
    """What the build said; the image is the engine's :data:`IMAGE` from then on."""
    context = tmp_path_factory.mktemp("context")
    (context / "dist").mkdir()
    try:
        shutil.copy(built_deb(), context / "dist")
    except NotBuiltError as err:
        pytest.skip(str(err))
    base = context / "base.tar"
    work = tmp_path_factory.mktemp("root")
    write_debian_root(base, work, *BASE, *DEPENDENCIES, *RECOMMENDED)
    engine.call("import", str(base), "localhost/agentwall-base:1")
    base.unlink()
    file = str(ROOT / "deploy/Containerfile")
    words = ("--isolation", "chroot", "--build-arg", "BASE=localhost/agentwall-base:1", "-f", file)
    said = engine.call("build", *words, "-t", "localhost/agentwall:1", str(context))
    engine.call("tag", "localhost/agentwall:1", IMAGE)
    return said


@contextmanager
def shared_directory(path: Path) -> Iterator[Path]:
    """A directory whose mounts are seen on both sides of a bind mount, as /run is by systemd."""
    path.mkdir()
    run_checked("mount", "--bind", str(path), str(path))
    try:
        run_checked("mount", "--make-shared", str(path))
        yield path
    finally:
        run_checked("umount", "--recursive", str(path))


def may_connect(cgroup: Path) -> bool:
    """Whether a process born in the cgroup may name a destination; no packet is sent."""
    code = (
        "import socket\n"
        "try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))\n"
        "except PermissionError: print('refused')\n"
        "except OSError: print('no route')\n"
    )
    return "refused" not in run_checked(*in_cgroup(cgroup, sys.executable, "-c", code))


@pytest.fixture
def container(engine, built) -> Container:
    """A container of the image with the rights of the DaemonSet's pod."""
    options = (*AS_THE_POD, "--entrypoint", "", "-v", "/sys/fs/cgroup:/sys/fs/cgroup")
    with (
        temp_cgroup() as parent,
        engine.sandbox(parent, network="host", options=options) as found,
    ):
        yield found


def test_builds_offline(built):
    """On a base that has what the package depends on, nothing is fetched."""
    assert f"agentwall {__version__}" in built
    assert "apt-get: not found" not in built


def test_runs_where_the_pod_runs(container):
    """With the pod's rights the daemon's image can enforce everything that it needs to."""
    doctor = container.run("agentwall", "doctor")
    policy = container.run(
        "sh", "-c", "agentwall policy check $(dpkg -L agentwall | grep deny.yaml)"
    )
    trial = container.run("/usr/lib/agentwall/bin/python3", "-I", "-c", SCRIPT)
    own = container.run("cat", "/proc/1/cgroup")

    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert policy.returncode == 0, policy.stdout + policy.stderr
    assert (trial.returncode, trial.stdout) == (0, "[]\n"), trial.stderr
    # Paths are the host's, and so is process 1.
    assert own.stdout == Path("/proc/1/cgroup").read_text()


def test_daemon_in_a_pod(engine, built, tmp_path):
    """The wall that the daemon of a pod puts up outlives the pod; the next one takes it over."""
    config = tmp_path / "agentwall.yaml"
    with (
        shared_directory(tmp_path / "run") as run,
        temp_cgroup() as parent,
        temp_cgroup("scope") as scope,
    ):
        (born := scope / "born").mkdir()
        config.write_text(f"version: 1\nscopes: [{{cgroup: {spelled(scope)}, kind: owned}}]\n")
        mounts = [f"{run}:/run/agentwall:rshared", f"{config}:{CONFIG}:ro"]
        for name in ("log", "lib"):
            (tmp_path / name).mkdir()
            mounts.append(f"{tmp_path / name}:/var/{name}/agentwall")
        mounts.append("/sys/fs/cgroup:/sys/fs/cgroup")
        options = (*AS_THE_POD, *(word for mount in mounts for word in ("-v", mount)))
        before = may_connect(born)

        with engine.sandbox(parent, "daemon", network="host", options=options) as first:
            wait_until(lambda: first.run("agentwall", "status").returncode == 0, what="the daemon")
            (later := scope / "later").mkdir()
            during = may_connect(born), may_connect(later)
        killed = may_connect(born), may_connect(later)
        pins = [path.name for path in (run / "bpf/daemon/links").iterdir()]
        with engine.sandbox(parent, "daemon", network="host", options=options) as second:
            wait_until(lambda: second.run("agentwall", "status").returncode == 0, what="the next")
            taken_over = may_connect(born), may_connect(later)
            detached = second.run("agentwall", "daemon", "--detach")
            after = may_connect(born), may_connect(later)

    assert before
    assert during == killed == taken_over == (False, False)
    assert pins
    assert (tmp_path / "log" / "events.jsonl").stat().st_size > 0
    assert detached.returncode == 0, detached.stderr
    assert after == (True, True)
