# SPDX-License-Identifier: Apache-2.0
"""Which sandbox a request on the control socket means. Pure.

By its id, its cgroup, its container's id or the beginning of that, or its name. Names are chosen by
tenants: one that looks like another sandbox's container is ambiguous, and never taken for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from agentwall.errors import ControlCode, ControlError
from agentwall.flow.origin import Origin
from agentwall.sinks.escape import printable, shorten

MIN_PREFIX = 4
"""Characters of a container id that are enough where only one container's begins so."""
MAX_HANDLE = 4096
_MAX_LISTED = 10
_MAX_SHOWN = 80


class Placed(Protocol):
    """A cgroup."""

    @property
    def path(self) -> str:
        """As /proc/PID/cgroup spells it."""


class Named(Protocol):
    """What sandboxes go by; :class:`~agentwall.daemon.members.Member` is one."""

    @property
    def id(self) -> str:
        """The sandbox's id."""

    @property
    def cgroup(self) -> Placed:
        """Where it is."""

    @property
    def origin(self) -> Origin | None:
        """Where it comes from."""


SandboxT = TypeVar("SandboxT", bound=Named)


def resolve(handle: str, sandboxes: Iterable[SandboxT]) -> SandboxT:
    """Return the sandbox that *handle* means.

    Raises:
        ControlError: ``not-found``, or ``invalid`` where it could mean several; these are listed.
    """
    candidates = list(sandboxes)
    for each in candidates:
        if handle == each.id:
            return each
    for each in candidates:
        if handle == each.cgroup.path:
            return each
    found = [each for each in candidates if _is_called(each, handle)]
    if not found:
        shown = shorten(printable(handle), _MAX_SHOWN)
        raise ControlError(ControlCode.NOT_FOUND, f"no such sandbox: {shown}")
    if len(found) > 1:
        raise ControlError(ControlCode.INVALID, _ambiguous(handle, found))
    return found[0]


def _is_called(sandbox: Named, handle: str) -> bool:
    origin = sandbox.origin
    if origin is None:
        return False
    if handle in (origin.name, origin.container):
        return True
    container = origin.container or ""
    return len(handle) >= MIN_PREFIX and container.startswith(handle)


def _ambiguous(handle: str, found: list[SandboxT]) -> str:
    lines = [f"{each.id} at {each.cgroup.path}" for each in found[:_MAX_LISTED]]
    if len(found) > _MAX_LISTED:
        lines.append(f"{len(found) - _MAX_LISTED} more")
    shown = shorten(printable(handle), _MAX_SHOWN)
    return f"{shown}: expected one sandbox, got {len(found)}: {printable('; '.join(lines))}"
