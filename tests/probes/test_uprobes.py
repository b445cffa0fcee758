# SPDX-License-Identifier: Apache-2.0
"""Programs run when processes call a function, as long as the probe or its pin is there."""

import errno
import os

import pytest
from rig.descriptors import descriptors
from rig.probed import bpffs, build, calling, counting
from rig.process import run_checked, wait_until

from agentwall.errors import KernelError
from agentwall.probes import uprobes

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The library, its caller and the programs, compiled."""
    if reason := uprobes.why_not():
        pytest.skip(reason)
    return build(tmp_path_factory.mktemp("probed"))


@pytest.fixture
def counted(parts):
    """The programs, loaded."""
    with counting(parts) as loaded:
        yield loaded


@pytest.fixture
def library(parts, tmp_path):
    """A copy of the library that only this test probes."""
    return parts.copy(tmp_path / "libssl.so")


@pytest.fixture
def opened(library):
    """That copy, open."""
    fd = os.open(library, os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def pins(tmp_path):
    """A directory on a bpffs."""
    with bpffs(tmp_path / "bpf") as point:
        (point / "probes").mkdir()
        yield point / "probes"


def test_entry_is_counted(parts, counted, library, opened):
    """The program runs at each call, of processes from before and after, and at no other call."""
    with calling(parts, library) as before:
        probe = uprobes.attach(counted.program, opened, parts.offsets["SSL_write"], is_return=False)
        with calling(parts, library) as after:
            before.call("SSL_write", 3)
            after.call("SSL_write", 2)
            given = after.call("SSL_read")
    probe.close()

    assert counted.count() == 5
    assert given == 103


def test_close_takes_it_off(parts, counted, library, opened):
    """After close() the next call is not counted, and the function works as before."""
    with calling(parts, library) as caller:
        probe = uprobes.attach(counted.program, opened, parts.offsets["SSL_write"], is_return=False)
        caller.call("SSL_write")
        probe.close()
        given = caller.call("SSL_write", 10)

    assert counted.count() == 1
    assert given == 101


def test_return_is_counted(parts, counted, library, opened):
    """A probe at a return runs once a call, and the caller gets what the function returned."""
    probe = uprobes.attach(counted.program, opened, parts.offsets["SSL_read"], is_return=True)
    with calling(parts, library) as caller:
        given = caller.call("SSL_read", 4)
    probe.close()

    assert counted.count() == 4
    assert given == 103


def test_cookie(parts, counted, library, opened):
    """The program learns which of its probes it runs for."""
    if counted.by_cookie is None:
        pytest.skip("no cookies before Linux 5.15")
    probes = [
        uprobes.attach(
            counted.by_cookie, opened, parts.offsets[symbol], is_return=is_return, cookie=cookie
        )
        for symbol, is_return, cookie in (
            ("SSL_write", False, 7),
            ("SSL_read", False, 1 << 40),
            ("SSL_read", True, 9),
        )
    ]
    with calling(parts, library) as caller:
        caller.call("SSL_write", 2)
        caller.call("SSL_read", 3)
    for probe in probes:
        probe.close()

    assert all(probe.is_link for probe in probes)
    assert [counted.count(key) for key in (0, 7, 1 << 40, 9)] == [0, 2, 3, 3]


def test_pin_survives(parts, counted, library, opened, pins):
    """What is pinned goes on counting when its descriptor is closed, until the pin is removed."""
    if counted.by_cookie is None:
        pytest.skip("no links on perf events before Linux 5.15")
    pin = pins / "one"
    probe = uprobes.attach(
        counted.program, opened, parts.offsets["SSL_write"], is_return=False, pin=pin
    )
    probe.keep()
    with calling(parts, library) as caller:
        caller.call("SSL_write", 2)
        kept, found = counted.count(), uprobes.pinned(pins)
        removed = uprobes.remove_pinned(pins)
        wait_until(
            lambda: counted.ran(caller, "SSL_write") == 0,
            what="a probe without its pin is taken off",
        )

    assert kept == 2
    assert found == [pin]
    assert removed == 1
    assert not pins.exists()


def test_pin_and_descriptor(parts, counted, library, opened, pins):
    """A probe without its pin counts until it is closed."""
    if counted.by_cookie is None:
        pytest.skip("no links on perf events before Linux 5.15")
    probe = uprobes.attach(
        counted.program, opened, parts.offsets["SSL_write"], is_return=False, pin=pins / "one"
    )
    probe.unpin()
    with calling(parts, library) as caller:
        caller.call("SSL_write")
        probe.close()

    assert counted.count() == 1
    assert uprobes.pinned(pins) == []


def test_taken_over(parts, counted, library, opened, pins):
    """Probes of a process that has ended count until each is closed, and have no pins meanwhile."""
    if counted.by_cookie is None:
        pytest.skip("no links on perf events before Linux 5.15")
    for symbol in ("SSL_read", "SSL_write"):
        uprobes.attach(
            *(counted.program, opened, parts.offsets[symbol]), is_return=False, pin=pins / symbol
        ).keep()
    probes = uprobes.take_over_pinned(pins)
    with calling(parts, library) as caller:
        held = (counted.ran(caller, "SSL_read"), counted.ran(caller, "SSL_write"))
        probes[0].close()
        wait_until(lambda: counted.ran(caller, "SSL_read") == 0, what="the end of a probe")
        left = counted.ran(caller, "SSL_write")
        probes[1].close()
        wait_until(lambda: counted.ran(caller, "SSL_write") == 0, what="the end of the other")

    assert len(probes) == 2
    assert not pins.exists()
    assert held == (1, 1)
    assert left == 1


def test_taken_over_where_too_much_is_open(parts, counted, library, opened, pins, monkeypatch):
    """What cannot be held is taken off all the same."""
    if counted.by_cookie is None:
        pytest.skip("no links on perf events before Linux 5.15")

    def refuse(pin):
        raise KernelError(errno.EMFILE, f"{pin}: too many open files")

    place = {"offset": parts.offsets["SSL_write"], "is_return": False, "pin": pins / "one"}
    uprobes.attach(counted.program, opened, **place).keep()
    monkeypatch.setattr(uprobes, "_get", refuse)
    probes = uprobes.take_over_pinned(pins)
    with calling(parts, library) as caller:
        wait_until(
            lambda: counted.ran(caller, "SSL_write") == 0,
            what="a probe without its pin is taken off",
        )

    assert probes == []
    assert not pins.exists()


def test_taken_name(parts, counted, library, opened, pins):
    """Where the pin's name is taken, nothing is attached and the message says so."""
    if counted.by_cookie is None:
        pytest.skip("no links on perf events before Linux 5.15")
    place = {"offset": parts.offsets["SSL_write"], "is_return": False, "pin": pins / "one"}
    first = uprobes.attach(counted.program, opened, **place)
    with pytest.raises(KernelError, match="SSL_write: pin: file exists") as caught:
        uprobes.attach(counted.program, opened, **place, what="SSL_write")
    with calling(parts, library) as caller:
        caller.call("SSL_write")
    first.close()

    assert caught.value.errno == errno.EEXIST
    assert counted.count() == 1


def test_replaced_library(parts, counted, library, opened):
    """A library that is replaced while it is mapped stays probed; the new file is not."""
    probe = uprobes.attach(counted.program, opened, parts.offsets["SSL_write"], is_return=False)
    with calling(parts, library) as old:
        parts.copy(library)
        with calling(parts, library) as new:
            old.call("SSL_write", 2)
            new.call("SSL_write", 30)
    probe.close()

    assert counted.count() == 2


def test_by_descriptor(parts, counted, library, opened):
    """The file is the one that is open, not the one that has its name meanwhile."""
    with calling(parts, library) as old:
        parts.copy(library)
        probe = uprobes.attach(counted.program, opened, parts.offsets["SSL_write"], is_return=False)
        with calling(parts, library) as new:
            old.call("SSL_write", 2)
            new.call("SSL_write", 30)
        probe.close()

    assert counted.count() == 2


def test_busy_mount(parts, counted, tmp_path):
    """A file system with a probed file can be unmounted lazily only, as the module says."""
    point = tmp_path / "disk"
    point.mkdir()
    run_checked("mount", "-t", "tmpfs", "tmpfs", point)
    try:
        with parts.copy(point / "libssl.so").open("rb") as file:
            probe = uprobes.attach(
                counted.program, file.fileno(), parts.offsets["SSL_write"], is_return=False
            )
        with pytest.raises(RuntimeError, match="busy"):
            run_checked("umount", point)
        probe.close()
    finally:
        run_checked("umount", point)


@pytest.mark.parametrize(
    ("offset", "step"), [(1 << 40, "open uprobe: invalid argument"), (0, "attach")]
)
def test_refusals(parts, counted, opened, offset, step):
    """An offset beyond the file, and a program that is none, are refused with step and reason."""
    program = counted.program if offset else opened
    with pytest.raises(KernelError) as caught:
        uprobes.attach(program, opened, offset, is_return=False, what="SSL_write")

    assert str(caught.value).startswith(f"SSL_write: {step}")


def test_no_regular_file(counted):
    """A directory cannot be probed."""
    fd = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(KernelError, match="invalid argument"):
            uprobes.attach(counted.program, fd, 0, is_return=False)
    finally:
        os.close(fd)


def test_nothing_pinned(tmp_path):
    """A directory that does not exist has no pins."""
    assert uprobes.pinned(tmp_path / "none") == []
    assert uprobes.remove_pinned(tmp_path / "none") == 0
    assert uprobes.take_over_pinned(tmp_path / "none") == []


def test_no_descriptor_is_left(parts, counted, opened):
    """Attaching and refusing leave no descriptor behind."""
    before = descriptors()
    uprobes.attach(counted.program, opened, parts.offsets["SSL_free"], is_return=False).close()
    with pytest.raises(KernelError):
        uprobes.attach(opened, opened, 0, is_return=False)

    assert descriptors() <= before
