# SPDX-License-Identifier: Apache-2.0
"""Libraries that processes map are probed in truth, and are not any more afterwards."""

import itertools
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.probed import bpffs, build, calling, counting, file_id
from rig.process import wait_until

from agentwall.flow.tls import TlsLibrary
from agentwall.probes import uprobes
from agentwall.probes.attached import LINGER_S, Attached
from agentwall.probes.libraries import PROGRAMS

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The library, its caller and the programs, compiled."""
    if reason := uprobes.why_not():
        pytest.skip(reason)
    return build(tmp_path_factory.mktemp("probed"))


@contextmanager
def opened(path):
    """A file's identity and descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file_id(path), fd
    finally:
        os.close(fd)


@pytest.fixture
def counted(parts):
    """The programs, loaded."""
    with counting(parts) as loaded:
        yield loaded


def test_short_lived_processes(parts, counted, tmp_path):
    """Of 300 processes that end soon, the first has the library probed, and all are counted."""
    library = parts.copy(tmp_path / "libssl.so")
    attached = Attached(dict.fromkeys(PROGRAMS, counted.program), max_libraries=4, pins=None)
    try:
        for number in range(300):
            now_s = number / 10
            with calling(parts, library) as caller, opened(library) as (file, fd):
                attached.use(
                    file, fd, TlsLibrary.OPENSSL, parts.offsets, caller.pid, str(library), now_s
                )
                caller.call("SSL_write")
                attached.drop(caller.pid, now_s)
            attached.expire(now_s)
        probed = attached.libraries()
    finally:
        attached.close()

    assert attached.attached_total == 1
    assert counted.count() == 300
    assert [each.users for each in probed] == [frozenset()]


def test_replaced_library(parts, counted, tmp_path):
    """A library that is replaced while it is used, and the new one, are probed both."""
    library = parts.copy(tmp_path / "libssl.so")
    attached = Attached(dict.fromkeys(PROGRAMS, counted.program), max_libraries=4, pins=None)
    numbers = itertools.count()

    def used(caller) -> None:
        with opened(Path(f"/proc/{caller.pid}/map_files/{_mapping(caller.pid)}")) as (file, fd):
            name = str(library)
            attached.use(file, fd, TlsLibrary.OPENSSL, parts.offsets, next(numbers), name, 0.0)

    try:
        with calling(parts, library) as old:
            used(old)
            parts.copy(library)
            with calling(parts, library) as new:
                used(new)
                old.call("SSL_write", 2)
                new.call("SSL_write", 3)
    finally:
        attached.close()

    assert attached.attached_total == 2
    assert counted.count() == 5


def _mapping(pid: int) -> str:
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            if " r-xp " in line and "libssl" in line:
                start, _, end = line.split()[0].partition("-")
                return f"{int(start, 16):x}-{int(end, 16):x}"
    raise AssertionError("the library is not mapped")


def test_what_a_daemon_leaves(parts, counted, tmp_path):
    """A library stays probed when its daemon goes, until a later one removes the pins."""
    if counted.by_cookie is None:
        pytest.skip("no links on perf events before Linux 5.15")
    library = parts.copy(tmp_path / "libssl.so")
    with bpffs(tmp_path / "bpf") as point, calling(parts, library) as caller:
        programs = dict.fromkeys(PROGRAMS, counted.program)
        attached = Attached(programs, max_libraries=4, pins=point / "probes")
        with opened(library) as (file, fd):
            attached.use(file, fd, TlsLibrary.OPENSSL, parts.offsets, "a", str(library), 0.0)
        attached.keep()
        caller.call("SSL_write", 2)
        kept = counted.count()
        removed = uprobes.remove_pinned(point / "probes")
        wait_until(
            lambda: counted.ran(caller, "SSL_write") == 0,
            what="probes without pins are taken off",
        )

    assert kept == 2
    assert removed == 8


def test_taken_off_while_used(parts, counted, tmp_path):
    """When its last user is long gone, calls of whoever maps it still are not seen any more."""
    library = parts.copy(tmp_path / "libssl.so")
    attached = Attached(dict.fromkeys(PROGRAMS, counted.program), max_libraries=4, pins=None)
    with calling(parts, library) as caller, opened(library) as (file, fd):
        offsets = {name: parts.offsets[name] for name in ("SSL_write", "SSL_read")}
        attached.use(file, fd, TlsLibrary.OPENSSL, offsets, "a", str(library), 0.0)
        caller.call("SSL_write")
        attached.drop("a", 0.0)
        attached.expire(LINGER_S)
        while attached.close_some():
            pass
        given = caller.call("SSL_write", 5)

    assert given == 101
    assert counted.count() == 1
