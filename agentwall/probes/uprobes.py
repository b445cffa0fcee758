# SPDX-License-Identifier: Apache-2.0
"""Programs at functions of user space: uprobes, by file and offset, for all processes at once.

A probe goes by the inode, so a file that is replaced under its name keeps its probes as long as
they are attached, and the new one has none. Meanwhile the mount through which the file was opened
is busy: umount(2) without MNT_DETACH fails. Two ways to attach: a BPF link on a perf event (Linux
5.15), which has a cookie and can be pinned; before, the event alone, which lives as long as its
descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Protocol

from agentwall.errors import KernelError, UnsupportedFeatureError
from agentwall.probes import perf

_PMU = Path("/sys/bus/event_source/devices/uprobe")
_RETURN_FORMAT = re.compile(r"config:(\d+)", re.ASCII)
_OBJ_PIN, _OBJ_GET, _LINK_CREATE = 6, 7, 28
"""``enum bpf_cmd``."""
_PERF_EVENT = 41
"""BPF_PERF_EVENT of ``enum bpf_attach_type``."""
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_TRIED_BYTES = 4096


class _LinkCreate(ctypes.Structure):
    # union bpf_attr, link_create up to perf_event.bpf_cookie
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cookie", ctypes.c_uint64),
    )


class _Object(ctypes.Structure):
    # union bpf_attr, BPF_OBJ_*
    _fields_ = (
        ("pathname", ctypes.c_uint64),
        ("bpf_fd", ctypes.c_uint32),
        ("file_flags", ctypes.c_uint32),
    )


class Probe:
    """One program at one place of one file."""

    __slots__ = ("_fd", "is_link", "pin")

    def __init__(self, fd: int, *, is_link: bool, pin: Path | None = None) -> None:
        self._fd = fd
        self.is_link = is_link
        """Has a cookie, and may have a pin; False before Linux 5.15."""
        self.pin = pin
        """By what it outlives this process; None: it does not."""

    def unpin(self) -> None:
        """Remove the pin; the program stays until :meth:`close`."""
        if self.pin is not None:
            self.pin.unlink(missing_ok=True)
            self.pin = None

    def close(self) -> None:
        """Take the program off.

        The kernel waits about 0.1 s in here, so call it on a thread that may wait; closing several
        at once saves nothing. A pin just removed still counts for some ms: then the kernel does it
        later, on its own time, and so it does for everything whose pin goes last.
        """
        self.unpin()
        self.keep()

    def keep(self) -> None:
        """Close the descriptor; what is pinned stays attached."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Attach(Protocol):
    """:func:`attach`, or what stands in its place."""

    def __call__(
        self,
        program_fd: int,
        file_fd: int,
        offset: int,
        *,
        is_return: bool,
        cookie: int,
        pin: Path | None,
        what: str,
    ) -> Probe:
        """Attach one program.

        Raises:
            KernelError: It cannot be attached.
        """


def _of_pmu(name: str) -> str:
    try:
        return (_PMU / name).read_text()
    except OSError as err:
        reason = (err.strerror or "").lower()
        what = f"uprobes: expected a kernel that has them: {_PMU / name}: {reason}"
        raise UnsupportedFeatureError(errno.EOPNOTSUPP, what) from err


def _open_event(file_fd: int, offset: int, *, is_return: bool, what: str) -> int:
    try:
        kind = int(_of_pmu("type"))
    except ValueError as err:
        raise UnsupportedFeatureError(errno.EOPNOTSUPP, f"{_PMU / 'type'}: {err}") from err
    config = 0
    if is_return:
        bit = _RETURN_FORMAT.match(_of_pmu("format/retprobe"))
        if bit is None:
            raise UnsupportedFeatureError(errno.EOPNOTSUPP, f"{what}: no probes at returns")
        config = 1 << int(bit[1])
    # The kernel follows it to the file itself, whatever lies at its path now.
    path = ctypes.create_string_buffer(b"/proc/self/fd/%d" % file_fd)
    attributes = perf.Attributes(
        type=kind, config=config, config1=ctypes.addressof(path), config2=offset
    )
    # An event of all processes on one processor: its program runs on all of them.
    return perf.open_event(attributes, cpu=perf.online_cpus()[0], what=what)


def _link(program_fd: int, event: int, cookie: int, what: str) -> int | None:
    """Return a link; None: this kernel knows none on perf events."""
    asked = _LinkCreate(program_fd, event, _PERF_EVENT, 0, cookie)
    try:
        return perf.bpf(_LINK_CREATE, asked, what)
    except KernelError as err:
        if err.errno != errno.EINVAL:
            raise
        refusal = err
    # As libbpf tells: a kernel that knows such links looks at the event, and this is none.
    try:
        perf.bpf(_LINK_CREATE, _LinkCreate(program_fd, 0xFFFF_FFFF, _PERF_EVENT, 0, 0), what)
    except KernelError as err:
        if err.errno == errno.EBADF:
            raise refusal from None
    return None


def attach(
    program_fd: int,
    file_fd: int,
    offset: int,
    *,
    is_return: bool,
    cookie: int = 0,
    pin: Path | None = None,
    what: str = "uprobe",
) -> Probe:
    """Run a program of type kprobe whenever a process comes to a place of a file.

    Args:
        program_fd: Of the program; it may be closed afterwards.
        file_fd: Of a regular file, open for reading; it may be closed afterwards.
        offset: In the file, of the function's first instruction.
        is_return: When that function returns, rather than when it is entered.
        cookie: What ``bpf_get_attach_cookie`` gives; lost before Linux 5.15.
        pin: Where on a bpffs to keep it; before Linux 5.15 it is not pinned.
        what: Of which function, in errors.

    Raises:
        UnsupportedFeatureError: There are no uprobes here.
        KernelError: The kernel refuses: the message says at which step and why.
    """
    event = _open_event(file_fd, offset, is_return=is_return, what=f"{what}: open uprobe")
    try:
        link = _link(program_fd, event, cookie, f"{what}: attach")
        if link is None:
            _set_program(event, program_fd, what)
            return Probe(event, is_link=False)
    except KernelError:
        os.close(event)
        raise
    os.close(event)  # the link holds it
    try:
        if pin is not None:
            _pin(link, pin, f"{what}: pin")
    except KernelError:
        os.close(link)
        raise
    return Probe(link, is_link=True, pin=pin)


def _set_program(event: int, program_fd: int, what: str) -> None:
    try:
        fcntl.ioctl(event, _IOC_SET_BPF, program_fd)
        fcntl.ioctl(event, _IOC_ENABLE, 0)
    except OSError as err:
        raise perf.failure(err.errno or errno.EIO, f"{what}: attach to event") from err


def _pin(descriptor: int, path: Path, what: str) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    perf.bpf(_OBJ_PIN, _Object(ctypes.addressof(name), descriptor, 0), what)


def pinned(directory: Path) -> list[Path]:
    """Return the pins of probes in *directory*, sorted; none where there is no such directory."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in directory.iterdir() if path.is_file())
    return []


def remove_pinned(directory: Path) -> int:
    """Take off the probes that are pinned in *directory*, and remove it; return how many.

    Their programs run no longer a few ms later; the kernel takes the probes out in the background.

    Raises:
        KernelError: A pin or the directory cannot be removed.
    """
    paths = pinned(directory)
    _unpin(paths, directory)
    return len(paths)


def take_over_pinned(directory: Path) -> list[Probe]:
    """Remove the pins in *directory*, and it, but hold the probes: to be closed one at a time.

    What cannot be opened is taken off as by :func:`remove_pinned`.

    Raises:
        KernelError: A pin or the directory cannot be removed.
    """
    paths = pinned(directory)
    probes = []
    for path in paths:
        with contextlib.suppress(KernelError):
            probes.append(Probe(_get(path), is_link=True))
    try:
        _unpin(paths, directory)
    except KernelError:
        for probe in probes:
            probe.keep()
        raise
    return probes


def _get(pin: Path) -> int:
    name = ctypes.create_string_buffer(os.fsencode(pin))
    return perf.bpf(_OBJ_GET, _Object(ctypes.addressof(name), 0, 0), f"{pin}: open")


def _unpin(paths: list[Path], directory: Path) -> None:
    try:
        for path in paths:
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
    except OSError as err:
        raise perf.failure(err.errno or errno.EIO, f"{directory}: remove probes") from err


def why_not() -> str | None:
    """Return why nothing can be probed here, None if it can: tried, at a file nobody maps.

    Takes 0.1 s.
    """
    file = os.memfd_create("agentwall-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, _TRIED_BYTES)
        for is_return in (False, True):
            os.close(_open_event(file, 0, is_return=is_return, what="uprobes"))
    except KernelError as err:
        return str(err)
    finally:
        os.close(file)
    return None
