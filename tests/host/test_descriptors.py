# SPDX-License-Identifier: Apache-2.0
"""Which descriptors a command may inherit."""

from __future__ import annotations

import os
import socket

import pytest

from agentwall.errors import HostError
from agentwall.host.descriptors import inspect_descriptor, judge_descriptors, kept_open
from agentwall.host.mountinfo import read_mounts


@pytest.fixture
def opened():
    """A function that opens a path and closes it after the test."""
    descriptors = []

    def open_one(path: object, flags: int = os.O_RDONLY) -> int:
        descriptors.append(os.open(path, flags))
        return descriptors[-1]

    yield open_one
    for descriptor in descriptors:
        os.close(descriptor)


def test_harmless(opened, tmp_path):
    """Files, pipes, /dev/null and files of /proc opened for reading do not lead out."""
    file = tmp_path / "x"
    file.touch()
    reader, writer = os.pipe()
    numbers = [opened(file, os.O_RDWR), opened("/dev/null"), opened("/proc/version"), reader]

    found = [inspect_descriptor(number) for number in numbers]

    os.close(reader)
    os.close(writer)
    assert [(each.what, each.leads_out) for each in found] == [
        ("file", False),
        ("device", False),
        ("file", False),
        ("pipe", False),
    ]


def test_terminal():
    """A terminal does not lead out, and is called one."""
    master, slave = os.openpty()

    found = inspect_descriptor(slave)

    os.close(master)
    os.close(slave)
    assert (found.what, found.leads_out) == ("terminal", False)


@pytest.mark.parametrize(
    ("family", "kind", "what", "leads_out"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "inet socket", True),
        (socket.AF_INET6, socket.SOCK_DGRAM, "inet6 socket", True),
        (socket.AF_NETLINK, socket.SOCK_RAW, "netlink socket", True),
        (socket.AF_UNIX, socket.SOCK_STREAM, "unix socket", False),
    ],
)
def test_sockets(family, kind, what, leads_out):
    """Every socket leads out but a unix one, which is merely named."""
    with socket.socket(family, kind) as made:
        found = inspect_descriptor(made.fileno())

        assert (found.what, found.leads_out) == (what, leads_out)
        # Looking at it must not close it.
        assert os.fstat(made.fileno())


@pytest.mark.skipif(os.geteuid() != 0, reason="a packet socket takes root")
def test_packet_socket():
    """A packet socket leads out."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
        found = inspect_descriptor(made.fileno())

        assert (found.what, found.leads_out) == ("packet socket", True)


def test_directory(opened):
    """A directory leads out: openat() from it sees the caller's mounts."""
    found = inspect_descriptor(opened("/"))

    assert (found.what, found.leads_out) == ("directory", True)


def test_process(opened):
    """A descriptor of a process or a namespace leads out."""
    pidfd = os.pidfd_open(os.getpid())
    numbers = [pidfd, opened("/proc/self/ns/net")]

    found = [inspect_descriptor(number) for number in numbers]

    os.close(pidfd)
    assert [each.leads_out for each in found] == [True, True]


@pytest.mark.kernel
def test_writable_cgroup_file(opened):
    """A file of cgroupfs open for writing leads out: it moves whoever writes to it."""
    point = next(mount.point for mount in read_mounts() if mount.fstype == "cgroup2")

    found = inspect_descriptor(opened(f"{point}/cgroup.procs", os.O_WRONLY))

    assert (found.what, found.leads_out) == ("file of cgroup2", True)


def test_kept(opened):
    """A descriptor that leads out is refused unless kept by number, and then is told of."""
    number = opened("/")

    assert inspect_descriptor(number).leads_out
    [kept] = [found for found in judge_descriptors([number]) if found.number == number]
    assert kept.leads_out
    assert number in kept_open([kept])


def test_kept_but_closed():
    """Keeping a descriptor that is not open is an error."""
    with pytest.raises(HostError, match="descriptor 999: expected an open one"):
        judge_descriptors([999])


def test_refused(opened):
    """A socket on 0 is refused, and the error says how to keep it."""
    saved = os.dup(0)
    with socket.socket(socket.AF_INET) as made:
        os.dup2(made.fileno(), 0)
        try:
            with pytest.raises(HostError, match=r"descriptor 0: inet socket.*--keep-fd 0"):
                judge_descriptors([])
        finally:
            os.dup2(saved, 0)
            os.close(saved)
