# SPDX-License-Identifier: Apache-2.0
"""What reading inside TLS needs of this host, as ``agentwall doctor`` has it: rows, each tried.

None of it is required: without it everything works but that, and each row says what is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from agentwall.daemon.provision import kept_code
from agentwall.errors import KernelError
from agentwall.kernel import probe
from agentwall.kernel.features import Feature, Group, State
from agentwall.probes import compiling, mapped, uprobes
from agentwall.probes.code import Code

_UNREAD = "what sandboxes hand to TLS libraries is not read"
_LATE = "a library is probed when it is seen in use, and not when it is mapped"

_TRIED_BYTES = 4096

Check = Callable[[], str | None]
"""Returns why it is not there; None: it is."""


def probes_why_not() -> str | None:
    """Return why a probe cannot do its work here; None: it can: tried, at a file nobody maps.

    Takes 0.1 s.
    """
    file = os.memfd_create("agentwall-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, _TRIED_BYTES)
        with probe.probe_program() as program:
            uprobes.attach(program, file, 0, is_return=False, what="probe").close()
    except KernelError as err:
        return str(err)
    finally:
        os.close(file)
    return None


def inside_tls(*, is_able: bool) -> Iterator[Feature]:
    """Yield a row for each thing that reading inside TLS needs.

    Args:
        is_able: This process may load programs; else only what needs no rights is tried.
    """
    yield _bcc(kept_code() if is_able else None)
    for name, why_not, there, lost, remedy in (
        (
            "inside TLS: uprobes",
            uprobes.why_not,
            "there: calls of libraries can be probed",
            _UNREAD,
            "a kernel with CONFIG_UPROBE_EVENTS that permits perf_event_open",
        ),
        (
            "inside TLS: probes",
            probes_why_not,
            "there: this kernel takes programs like the probes'",
            _UNREAD,
            "a later kernel: 6.1 and later are tried",
        ),
        (
            "inside TLS: mappings",
            mapped.why_not,
            "there: a library is seen when it is mapped",
            _LATE,
            "a kernel with CONFIG_PERF_EVENTS that permits perf_event_open",
        ),
    ):
        if is_able:
            yield _feature(name, why_not, there=there, lost=lost, remedy=remedy)
        else:
            yield Feature(
                name=name,
                group=Group.HOST,
                state=State.UNKNOWN,
                detail="not tried: needs root",
                required=False,
            )


def _bcc(kept: Code | None) -> Feature:
    there, lost = "there: probes can be compiled", _UNREAD
    if kept is not None:
        there += f", and those that bcc {kept.bcc} compiled here are kept"
        lost = f"read by what bcc {kept.bcc} compiled here, until kernel or agentwall change"
    return _feature(
        "inside TLS: bcc",
        compiling.why_not,
        there=there,
        lost=lost,
        remedy="the Debian package python3-bpfcc, for /usr/bin/python3",
    )


def _feature(name: str, why_not: Check, *, there: str, lost: str, remedy: str) -> Feature:
    why = why_not()
    return Feature(
        name=name,
        group=Group.HOST,
        state=State.SUPPORTED if why is None else State.MISSING,
        detail=there if why is None else f"{lost}: {why}",
        required=False,
        remedy="" if why is None else remedy,
    )
