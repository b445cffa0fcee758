# SPDX-License-Identifier: Apache-2.0
"""Answers what is asked of sandboxes on the control socket.

Who may ask what, ``control`` has decided before; what ends or reloads the daemon, ``service`` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from agentwall.daemon import arguments as args
from agentwall.daemon.arrivals import Arrivals
from agentwall.daemon.building import Parts
from agentwall.daemon.callers import Caller
from agentwall.daemon.choosing import NotAdmitted
from agentwall.daemon.clock import boot_ns
from agentwall.daemon.connections import Deferred, Result
from agentwall.daemon.describe import Vitals, describe_daemon, describe_sandbox
from agentwall.daemon.describe_tls import AsTold, tls_of_sandbox, unread_speakers
from agentwall.daemon.handles import resolve
from agentwall.daemon.inside import Inside
from agentwall.daemon.inside_state import SandboxReadings
from agentwall.daemon.keeper import PHASE
from agentwall.daemon.members import Member, Override
from agentwall.daemon.tallies import nothing
from agentwall.errors import AgentwallError, ControlCode, ControlError
from agentwall.flow.origin import Origin, Runtime
from agentwall.host.oci_bundle import runtime_of

_DRAINS = 4
"""Of everything that the rings hold, more than once: what floods meanwhile is not waited for."""
_MAX_LABELS = 64
_MAX_LABEL = 4096
_OWN = "io.agentwall."
"""Annotations that are labels of the sandbox: ``io.agentwall.episode`` is the label ``episode``.
Not the phase: a sandbox begins in its policy's first one."""


class Requests:
    """Everything that can be asked of sandboxes."""

    def __init__(
        self,
        parts: Parts,
        arrivals: Arrivals,
        vitals: Callable[[], Vitals],
        inside: Inside | None = None,
    ) -> None:
        self._parts = parts
        self._inside = inside
        self._tls = AsTold(inside, parts.pump.tls_counts) if inside is not None else None
        self._keeper = parts.keeper
        self._arrivals = arrivals
        self._vitals = vitals

    def answer(self, caller: Caller, name: str, arguments: args.Arguments) -> Result | Deferred:
        """Carry out one request.

        Raises:
            ControlError: It is malformed, names no sandbox, or was refused.
            AgentwallError: It was tried.
        """
        match name:
            case "status":
                args.read_nothing(arguments)
                self._parts.upkeep.read_counters()
                return describe_daemon(self._keeper, self._vitals(), self._tls)
            case "sandbox-list":
                args.read_nothing(arguments)
                self._parts.upkeep.read_counters()
                return {"sandboxes": [self._describe(each) for each in self._sandboxes()]}
            case "sandbox-show":
                return self._show(self._find(args.read_sandbox(arguments)))
            case "sandbox-label":
                return self._label(args.read_label(arguments), caller)
            case "sandbox-mode":
                return self._mode(args.read_mode(arguments), caller)
            case "denials":
                wanted = args.read_denials(arguments)
                return self._denials(wanted.sandbox, wanted.labels)
            case "admit":
                return self._admit(args.read_admit(arguments))
            case "release":
                return self._release(self._find(args.read_sandbox(arguments)))
            case _:
                raise ControlError(ControlCode.INVALID, "request: there is no such request")

    def _sandboxes(self) -> Iterable[Member]:
        return self._keeper.members.sandboxes()

    def _find(self, handle: str) -> Member:
        """Return whom *handle* means: of those that are there, else of those that are leaving."""
        try:
            return resolve(handle, (each for each in self._sandboxes() if not each.leaving_ns))
        except ControlError as err:
            if err.code is not ControlCode.NOT_FOUND:
                raise
            return resolve(handle, self._sandboxes())

    def _describe(self, member: Member) -> dict[str, object]:
        found = describe_sandbox(member, self._keeper.rules.edition, self._keeper.wall)
        return {**found, "tls_unread": unread_speakers(self._readings(member))}

    def _readings(self, member: Member) -> SandboxReadings | None:
        return self._tls.readings(member.key) if self._tls is not None else None

    def _show(self, member: Member) -> dict[str, object]:
        self._parts.pump.drain()
        self._parts.upkeep.read_counters()
        in_force = self._keeper.wall.hooks(member.key)
        missing = self._keeper.wall.missing_hooks(member.key)
        hooks = [{"name": each, "in_force": True} for each in in_force]
        hooks += [{"name": each, "in_force": False, "reason": why} for each, why in missing.items()]
        denials = self._denials(member.id, {})
        tls = tls_of_sandbox(self._readings(member))
        return {**self._describe(member), "hooks": hooks, "tls": tls, "denials": denials}

    def _label(self, wanted: args.LabelRequest, caller: Caller) -> dict[str, object]:
        member = self._find(wanted.sandbox)
        labels = args.merge_labels(member.labels, wanted.changes)
        # What happened so far happened under the labels before.
        self._parts.pump.settle()
        try:
            self._keeper.set_labels(member, labels, str(caller))
        except NotAdmitted as err:
            raise ControlError(ControlCode.INVALID, str(err)) from err
        return self._describe(member)

    def _mode(self, wanted: args.ModeRequest, caller: Caller) -> dict[str, object]:
        """Switch modes. Of all: also of owned scopes, and what fails does not keep the others."""
        if wanted.sandbox is not None:
            members = [self._find(wanted.sandbox)]
        else:
            members = list(self._keeper.members)
        override = None
        if wanted.mode is not None:
            for_s = wanted.for_s
            override = Override(
                mode=wanted.mode,
                until_ns=None if for_s is None else boot_ns() + int(for_s * 1e9),
                reason=wanted.reason,
                by=str(caller),
            )
        problems = []
        for member in members:
            if override is None and member.override is None:
                continue
            try:
                self._keeper.set_override(member, override, str(caller), wanted.reason)
            except AgentwallError as err:
                problems.append(f"{member.id}: {err}")
        if problems:
            raise ControlError(ControlCode.FAILED, "; ".join(problems[:16]))
        return {
            "sandboxes": [self._describe(each) for each in members if not each.is_scope],
            "scopes": [each.cgroup.path for each in members if each.is_scope],
        }

    def _denials(self, handle: str, labels: Mapping[str, str]) -> dict[str, object]:
        # The answer is about all that has happened by now, what waits in the kernel included.
        for _ in range(_DRAINS):
            if not self._parts.pump.drain():
                break
        self._parts.upkeep.read_counters()
        tallies = self._parts.outlets.tallies
        try:
            tally = tallies.of(self._find(handle).id)
        except ControlError:
            # It may have ended.
            tally = tallies.of(handle)
            if tally is None:
                raise
        return tally.answer(labels) if tally is not None else nothing()

    def _admit(self, wanted: args.AdmitRequest) -> Result | Deferred:
        begun_ns = time.monotonic_ns()
        try:
            member = self._arrivals.admit(
                wanted.pid, _told_origin(wanted), _own_labels(wanted.labels), wanted.policy
            )
        except NotAdmitted as err:
            raise ControlError(ControlCode.INVALID, str(err)) from err
        took_ms = (time.monotonic_ns() - begun_ns) / 1e6
        if member is None:
            keys = ("sandbox", "policy", "phase", "coverage", "unwatched_ms", "tls_prepared")
            return {**dict.fromkeys(keys)}
        self._parts.sinks.figures.admitted(took_ms / 1e3)
        found = {
            "sandbox": member.id,
            "policy": member.policy,
            "phase": member.phase,
            "coverage": member.coverage.level.value if member.coverage else None,
            "unwatched_ms": member.unwatched_ms,
            "took_ms": round(took_ms, 3),
        }
        return self._prepared(member, wanted, found)

    def _prepared(
        self, member: Member, wanted: args.AdmitRequest, found: Result
    ) -> Result | Deferred:
        """Answer *found* once the libraries of a container that waits are probed, or it takes long.

        Who gives no bundle has a process that runs: its libraries are probed meanwhile.
        """
        answer = Deferred()
        is_coming = (
            self._inside is not None
            and wanted.bundle
            and self._inside.prepare(
                member.key,
                wanted.pid,
                Path(wanted.bundle),
                lambda is_done: answer.complete({**found, "tls_prepared": is_done}),
            )
        )
        return answer if is_coming else {**found, "tls_prepared": None}

    def _release(self, member: Member) -> dict[str, object]:
        """Let a sandbox go whose runtime says that it has ended; one that lives keeps its wall."""
        if member.cgroup.directory.is_dir() and member.cgroup.is_populated():
            raise ControlError(ControlCode.INVALID, f"sandbox {member.id}: processes live in it")
        self._parts.upkeep.see_leaving(member)
        return {"sandbox": member.id, "released": self._keeper.members.get(member.key) is None}


def _told_origin(wanted: args.AdmitRequest) -> Origin:
    """Return what the runtime says by its hook; the annotations are its labels, bounded.

    A cgroup's path need not tell whose it is; where the bundle is may.
    """
    labels = {
        key: value
        for key, value in list(wanted.labels.items())[:_MAX_LABELS]
        if len(key) <= _MAX_LABEL and len(value) <= _MAX_LABEL
    }
    names = {each: wanted.labels.get(key) for each, key in _ANNOTATIONS.items()}
    runtime = runtime_of(Path(wanted.bundle)) if wanted.bundle else None
    return Origin(
        runtime=runtime or Runtime.OTHER, container=wanted.container, labels=labels, **names
    )


_ANNOTATIONS = {
    "name": "io.kubernetes.cri.container-name",
    "image": "io.kubernetes.cri.image-name",
    "pod": "io.kubernetes.cri.sandbox-name",
    "namespace": "io.kubernetes.cri.sandbox-namespace",
}
"""containerd's; docs/sandboxes.md has the others, which the worker reads from the bundle."""


def _own_labels(annotations: Mapping[str, str]) -> dict[str, str]:
    found = {
        key.removeprefix(_OWN): value
        for key, value in annotations.items()
        if key.startswith(_OWN) and key.removeprefix(_OWN) not in ("policy", PHASE)
    }
    request = {"sandbox": "admitted", "labels": found}
    return dict(args.read_denials(request).labels) if found else {}
