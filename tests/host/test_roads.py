# SPDX-License-Identifier: Apache-2.0
"""Open roads are found where they are open, and not where they are closed."""

import os
import platform
import socket

import pytest

from agentwall.host import roads
from agentwall.host.deputies import Deputy
from agentwall.host.mountinfo import Mount


def mount(fstype: str, point: str) -> Mount:
    return Mount(root="/", point=point, options=frozenset(), fstype=fstype)


def sysctl(directory, **values):
    """A tree like /proc/sys with these values; ``__`` stands for a slash."""
    for name, value in values.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{value}\n")
    return directory


@pytest.mark.parametrize(
    ("fstype", "mode", "is_open"),
    [("bpf", 0o755, True), ("bpf", 0o1777, True), ("bpf", 0o700, False), ("tmpfs", 0o755, False)],
)
def test_bpffs(tmp_path, fstype, mode, is_open):
    """A bpffs is a road if others than its owner may enter it."""
    point = tmp_path / "bpf"
    point.mkdir()
    point.chmod(mode)
    found = list(roads.bpffs_roads((mount(fstype, str(point)),)))

    assert bool(found) == is_open
    assert all(str(point) in road.detail for road in found)


def test_bpffs_that_is_hidden():
    """A mount point that cannot be seen is no road."""
    assert list(roads.bpffs_roads((mount("bpf", "/does/not/exist"),))) == []


@pytest.mark.parametrize(
    ("values", "is_open"),
    [
        ({"user__max_user_namespaces": 9}, True),
        ({"user__max_user_namespaces": 0}, False),
        ({"user__max_user_namespaces": 9, "kernel__unprivileged_userns_clone": 0}, False),
        ({"user__max_user_namespaces": 9, "kernel__unprivileged_userns_clone": 1}, True),
        (
            {"user__max_user_namespaces": 9, "kernel__apparmor_restrict_unprivileged_userns": 1},
            False,
        ),
    ],
)
def test_user_namespaces(tmp_path, values, is_open):
    """Each of three switches closes user namespaces to users without rights."""
    assert bool(list(roads.namespace_roads(sysctl(tmp_path, **values)))) == is_open


@pytest.mark.parametrize(
    ("values", "is_open"),
    [
        ({}, True),
        ({"kernel__io_uring_disabled": 0}, True),
        ({"kernel__io_uring_disabled": 1}, False),
        ({"kernel__io_uring_disabled": 2}, False),
    ],
)
def test_io_uring(tmp_path, values, is_open):
    """io_uring is open unless its switch says otherwise; old kernels have none."""
    assert bool(list(roads.io_uring_roads(sysctl(tmp_path, **values)))) == is_open


@pytest.mark.parametrize(("machine", "closes"), [("x86_64", True), ("riscv64", False)])
def test_remedy_is_run(tmp_path, monkeypatch, machine, closes):
    """What run closes by itself is said to be closed by it, where it has a filter."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    [road] = roads.io_uring_roads(tmp_path)

    assert road.remedy.startswith("run closes it in enforce mode; ") is closes
    assert "kernel.io_uring_disabled=2" in road.remedy


@pytest.mark.parametrize(
    ("fstypes", "release", "is_open"),
    [
        (("cgroup", "cgroup2"), "5.10.0-28-cloud-amd64", True),
        (("cgroup2",), "5.10.0-28-cloud-amd64", False),
        (("cgroup", "cgroup2"), "5.15.0", False),
        (("cgroup", "cgroup2"), "6.1.0-18-amd64", False),
        (("cgroup",), "odd", True),
    ],
)
def test_hybrid(fstypes, release, is_open):
    """Before 5.15, and there only with cgroup v1 beside v2, sockets may leave cgroup v2."""
    mounts = tuple(mount(fstype, f"/mnt/{fstype}") for fstype in fstypes)

    assert bool(list(roads.hybrid_roads(mounts, release))) == is_open


def test_service_that_answers_everybody(public_path, monkeypatch):
    """A socket of a known service is a road while somebody listens and everybody may connect."""
    # Not below pytest's own directory: whatever begins beside this one closes that to others.
    path = public_path / "docker.sock"
    monkeypatch.setattr("agentwall.host.exposure.HOST_SOCKETS", (str(path),))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0o660)
        closed = services()
        path.chmod(0o666)

        assert closed == []
        assert [str(path) in detail for detail in services()] == [True]


def services() -> list[str]:
    return [road.detail for road in roads.find_roads() if road.name == "host service"]


def test_deputy(tmp_path):
    """A deputy's socket that is there is a road, whoever may connect, and says who closes it."""
    deputies = [
        Deputy(name="nscd", socket=str(tmp_path / name), mask=str(tmp_path / name))
        for name in ("there", "not-there")
    ]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(deputies[0].socket)

        [road] = roads.deputy_roads(deputies)

    assert road.detail == (
        f"nscd socket {tmp_path}/there: names resolve unseen by a sandbox that can reach it"
    )
    assert road.remedy == "run masks it; elsewhere do not mount it"


def test_this_host():
    """Looking at the host itself works, and each road comes with a remedy."""
    found = roads.find_roads()

    assert all(road.detail and road.remedy for road in found)
    assert ("cgroup v1" in {road.name for road in found}) <= (os.uname().release < "6")
