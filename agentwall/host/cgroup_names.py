# SPDX-License-Identifier: Apache-2.0
"""What the path of a cgroup says about what lives there. Pure.

Every runtime names the cgroups it makes after its containers; docs/sandboxes.md lists the forms.
The outermost name that is known counts: what a container makes below its own cgroup belongs to it.
Below ``user@UID.service`` a user chooses the names.

Two things no path tells: that a container is the one that only holds a pod together ("pause"), and
which namespace of Kubernetes a pod is in; :mod:`agentwall.host.runtime_api` does.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agentwall.flow.origin import Origin, Runtime

_LONGEST_PATH = 4095
"""``PATH_MAX`` without its NUL."""
DEEPEST = 32
"""Names of a path that are looked at. A sandbox that may make cgroups can make thousands within one
another; no runtime puts one that deep."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_HEX = re.compile(r"[0-9a-f]{64}")
_CONTAINER = re.compile(
    r"(docker|libpod|libpod-payload|nerdctl|cri-containerd|crio|kata)[-_]([0-9a-f]{64})(\.scope)?"
)
_RUNTIMES = {
    "docker": Runtime.DOCKER,
    "libpod": Runtime.PODMAN,
    "libpod-payload": Runtime.PODMAN,
    "nerdctl": Runtime.CONTAINERD,
    "cri-containerd": Runtime.KUBERNETES,
    "crio": Runtime.CRI_O,
    "kata": Runtime.KATA,
}
_MONITOR = re.compile(r"conmon|(libpod|crio)-conmon-[0-9a-f]{64}(\.scope)?|lxc\.(monitor|pivot).*")
_BUILD = re.compile(r"[0-9a-z]{25}|[0-9a-f]{64}")
_BUILD_SCOPE = re.compile(r"docker-([0-9a-z]{25})\.scope")
_POD_SLICE = re.compile(
    r"(?:[a-z0-9]+-)*kubepods(?:-burstable|-besteffort)?-pod([0-9a-f]{8}(?:_?[0-9a-f]{4}){3}"
    r"_?[0-9a-f]{12})\.slice"
)
_POD = re.compile(r"pod([0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12})")
# As containerd names it where kubelet counts in slices and containerd does not.
_POD_AND_CONTAINER = re.compile(r"(.+\.slice):(cri-containerd|crio):([0-9a-f]{64})")
_JOB = re.compile(r"job_([0-9]{1,20})")
_STEP = re.compile(r"step_([A-Za-z0-9_.+]{1,64})")
_SLURM_V2 = re.compile(r"(?:[A-Za-z0-9.-]+_)?slurmstepd\.scope")
_SLURM_V1 = re.compile(r"slurm(?:_[A-Za-z0-9.-]+)?")
_UID = re.compile(r"uid_[0-9]{1,10}")
_AGENTWALL = re.compile(r"agentwall-([0-9]{8}T[0-9]{6}Z-[0-9a-f]{6})")
_LXC = re.compile(r"lxc\.payload[.-]([A-Za-z0-9_.-]{1,64})")
_MACHINE = re.compile(r"machine-((?!qemu|lxc\\x2d)[A-Za-z0-9:_.\\@-]{1,200})\.scope")
_NSPAWN_UNIT = re.compile(r"systemd-nspawn@([A-Za-z0-9:_.\\@-]{1,200})\.service")
_FIRECRACKER = re.compile(r"firecracker(?:-v?[0-9][0-9.]*(?:-[a-z0-9_]+)?)?")
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,74}[A-Za-z0-9])?")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,250}\.(?:service|scope)")
_MANAGER = re.compile(r"user@[0-9]{1,10}\.service")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")

_HOLDERS_AT_TOP = frozenset(
    ("docker", "default", "lxc", "lxc.payload", "libpod_parent", "actions_job", "kata_overhead")
)
_HOLDERS = frozenset(("kubepods", "buildkit", "buildx"))
_INFRASTRUCTURE = re.compile(
    r"(docker|snap\.docker\.dockerd|containerd|buildkit|podman|crio|kubelet|k3s(-agent)?|rke2-\w+"
    r"|slurmd|lxc|lxd|incus|lxcfs|libvirtd|virt\w+|agentwall)\.service|init\.scope"
)


class Standing(enum.Enum):
    """What a cgroup is, as far as its path tells."""

    SANDBOX = "sandbox"
    """A runtime made it for a container, a job's step or a virtual machine."""
    UNIT = "unit"
    """A service or scope of systemd, whatever it runs."""
    HOLDER = "holder"
    """It only holds others: a slice, a pod, a job of Slurm."""
    EXCLUDED = "excluded"
    """Part of a runtime: conmon, a daemon, slurmstepd itself. Its traffic is not a sandbox's."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What :func:`identify` read in a path."""

    standing: Standing
    cgroup: str = ""
    """Of a sandbox or unit: its own cgroup, the path itself or an ancestor; else empty."""
    origin: Origin | None = None
    """Of a sandbox or unit."""


_NOTHING = Found(standing=Standing.UNKNOWN)
_EXCLUDED = Found(standing=Standing.EXCLUDED)
_HOLDER = Found(standing=Standing.HOLDER)


def identify(path: str, below: str = "/") -> Found:
    """Return what *path*, spelled as in /proc/<pid>/cgroup, says.

    Args:
        path: Anything; what is not a plain path of cgroup names is unknown.
        below: Only cgroups below this one can be sandboxes; names above still tell the pod.
    """
    names = _split(path)
    above = _split(below) if below != "/" else []
    if names is None or above is None or names[: len(above)] != above:
        return _NOTHING
    names = names[:DEEPEST]
    for index in range(len(above), len(names)):
        before, name = names[:index], names[index]
        if _is_excluded(before, name):
            return _EXCLUDED
        if origin := _sandbox(before, name):
            return Found(standing=Standing.SANDBOX, cgroup=_join(names, index), origin=origin)
    return _identify_unit(names, len(above))


def is_plain(path: str) -> bool:
    """Say whether *path* is one of cgroup names that can be shown, and not the root."""
    return _split(path) is not None


def _split(path: str) -> list[str] | None:
    if not 1 < len(path) <= _LONGEST_PATH or _UNPRINTABLE.search(path) or path[0] != "/":
        return None
    names = path[1:].split("/")
    return None if {"", ".", ".."} & set(names) else names


def _join(names: Sequence[str], last: int) -> str:
    return "/" + "/".join(names[: last + 1])


def _identify_unit(names: list[str], first: int) -> Found:
    for index in range(first, len(names)):
        name = names[index]
        if _is_holder(names[:index], name):
            continue
        if _INFRASTRUCTURE.fullmatch(name):
            return _EXCLUDED
        if _UNIT.fullmatch(name):
            origin = Origin(runtime=Runtime.SYSTEMD, unit=name)
            return Found(standing=Standing.UNIT, cgroup=_join(names, index), origin=origin)
        return _NOTHING
    return _HOLDER if len(names) > first else _NOTHING


def _is_excluded(before: Sequence[str], name: str) -> bool:
    parent = before[-1] if before else ""
    return (
        _MONITOR.fullmatch(name) is not None
        or (name == "slurm" and _job_and_step(before) is not None)
        or (name == "system" and _SLURM_V2.fullmatch(parent) is not None)
        or (name == "supervisor" and _NSPAWN_UNIT.fullmatch(parent) is not None)
        # conmon's place where a unit holds the container ("--cgroups=split").
        or (name == "runtime" and parent.endswith(".service"))
    )


def _is_holder(before: Sequence[str], name: str) -> bool:
    parent = before[-1] if before else ""
    return (
        name.endswith(".slice")
        or _MANAGER.fullmatch(name) is not None
        or _NSPAWN_UNIT.fullmatch(name) is not None
        or name in _HOLDERS
        or (name in ("burstable", "besteffort") and parent == "kubepods")
        or _POD.fullmatch(name) is not None
        or _is_of_slurm(before, name)
        or (parent == "libpod_parent" and _HEX.fullmatch(name) is not None)
        or (not before and (name in _HOLDERS_AT_TOP or _FIRECRACKER.fullmatch(name) is not None))
    )


def _is_of_slurm(before: Sequence[str], name: str) -> bool:
    if _SLURM_V2.fullmatch(name):
        return True
    top = next((index for index, parent in enumerate(before) if _SLURM_V2.fullmatch(parent)), None)
    if top is not None:
        form = (_JOB, _STEP)[: len(before) - top]
        return len(before) - top <= len(form) and form[-1].fullmatch(name) is not None
    forms = (_SLURM_V1, _UID, _JOB)
    return len(before) < len(forms) and all(
        form.fullmatch(part) for form, part in zip(forms, [*before, name], strict=False)
    )


def _sandbox(before: Sequence[str], name: str) -> Origin | None:
    pod = next((uid for parent in reversed(before) if (uid := _pod(parent))), None)
    for rule in _RULES:
        if origin := rule(before, name):
            break
    else:
        if not before or _pod(before[-1]) is None:
            return None
        origin = Origin(runtime=Runtime.KUBERNETES)
    if "kata_overhead" in before:
        origin = replace(origin, runtime=Runtime.KATA)
    return replace(origin, pod=pod) if origin.pod is None else origin


def _pod(name: str) -> str | None:
    match = _POD_SLICE.fullmatch(name) or _POD.fullmatch(name)
    return _with_dashes(match[1]) if match else None


def _with_dashes(uid: str) -> str:
    # A pod that the node itself declares has a digest as uid: no dashes, and none are added.
    return uid.replace("_", "-")


def _container(before: Sequence[str], name: str) -> Origin | None:
    match = _CONTAINER.fullmatch(name)
    if not match:
        return None
    runtime = _RUNTIMES[match[1]]
    if match[1] == "cri-containerd" and not match[3]:
        runtime = Runtime.KATA
    unit = before[-1] if match[1] == "libpod-payload" and before else None
    return Origin(runtime=runtime, container=match[2], unit=unit)


def _pod_and_container(before: Sequence[str], name: str) -> Origin | None:
    match = _POD_AND_CONTAINER.fullmatch(name)
    pod = match and _pod(match[1])
    return match and Origin(runtime=_RUNTIMES[match[2]], container=match[3], pod=pod or None)


def _bare_id(before: Sequence[str], name: str) -> Origin | None:
    if not _HEX.fullmatch(name) or before[-1:] == ["libpod_parent"]:
        return None
    runtime = Runtime.DOCKER
    if before and _pod(before[-1]):
        runtime = Runtime.KUBERNETES
    elif before == ["default"]:
        runtime = Runtime.CONTAINERD
    elif before == ["actions_job"]:
        runtime = Runtime.ACTIONS
    elif before[-2:] == ["docker", "buildx"] or before[-1:] == ["buildkit"]:
        runtime = Runtime.BUILDKIT
    return Origin(runtime=runtime, container=name)


def _build(before: Sequence[str], name: str) -> Origin | None:
    if match := _BUILD_SCOPE.fullmatch(name):
        return Origin(runtime=Runtime.BUILDKIT, container=match[1])
    if before[-1:] == ["buildkit"] and _BUILD.fullmatch(name):
        return Origin(runtime=Runtime.BUILDKIT, container=name)
    return None


def _job_and_step(names: Sequence[str]) -> tuple[str, str] | None:
    """The job and step whose cgroup *names* is, for the second version of cgroups."""
    if len(names) < 3 or not _SLURM_V2.fullmatch(names[-3]):
        return None
    job, step = _JOB.fullmatch(names[-2]), _STEP.fullmatch(names[-1])
    return (job[1], step[1]) if job and step else None


def _slurm(before: Sequence[str], name: str) -> Origin | None:
    # Not all of the step: slurmstepd, which must reach its controller, lives in `slurm` beside.
    if name == "user" and (found := _job_and_step(before)):
        return Origin(runtime=Runtime.SLURM, job=found[0], step=found[1])
    if len(before) == 3 and _is_of_slurm(before[:2], before[2]) and _SLURM_V1.fullmatch(before[0]):
        job, step = _JOB.fullmatch(before[2]), _STEP.fullmatch(name)
        if job and step:
            return Origin(runtime=Runtime.SLURM, job=job[1], step=step[1])
    return None


def _machine(before: Sequence[str], name: str) -> Origin | None:
    parent = before[-1] if before else ""
    if match := _LXC.fullmatch(name):
        return Origin(runtime=Runtime.LXC, container=match[1], name=match[1])
    if before in (["lxc"], ["lxc.payload"]) and _ID.fullmatch(name):
        return Origin(runtime=Runtime.LXC, container=name, name=name)
    if match := _MACHINE.fullmatch(name):
        machine = _unescape(match[1])
        return Origin(runtime=Runtime.NSPAWN, container=machine, name=machine, unit=name)
    if name == "payload" and (match := _NSPAWN_UNIT.fullmatch(parent)):
        machine = _unescape(match[1])
        return Origin(runtime=Runtime.NSPAWN, container=machine, name=machine, unit=parent)
    return None


def _unescape(name: str) -> str:
    # As systemd-escape(1): a name that would hold what cannot be shown stays as it is written.
    plain = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)
    return plain if plain.isascii() and plain.isprintable() else name


def _other(before: Sequence[str], name: str) -> Origin | None:
    if match := _AGENTWALL.fullmatch(name):
        return Origin(runtime=Runtime.AGENTWALL, container=match[1])
    if not _ID.fullmatch(name) or len(before) != 1:
        return None
    if _FIRECRACKER.fullmatch(before[0]):
        return Origin(runtime=Runtime.FIRECRACKER, container=name)
    if before == ["default"]:
        return Origin(runtime=Runtime.CONTAINERD, container=name)
    return None


_RULES: tuple[Callable[[Sequence[str], str], Origin | None], ...] = (
    *(_container, _pod_and_container, _bare_id, _build, _slurm, _machine, _other),
)
