# SPDX-License-Identifier: Apache-2.0
"""What made a sandbox, as the host knows it: never as the sandbox says it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace


class Runtime(enum.Enum):
    """What made the cgroup. A policy's ``match`` and events name it by its value."""

    AGENTWALL = "agentwall"
    """``agentwall run``."""
    DOCKER = "docker"
    PODMAN = "podman"
    CONTAINERD = "containerd"
    """Through ``ctr`` or nerdctl, without Kubernetes."""
    CRI_O = "cri-o"
    KUBERNETES = "kubernetes"
    """A pod whose container runtime its path does not name."""
    KATA = "kata"
    FIRECRACKER = "firecracker"
    LXC = "lxc"
    NSPAWN = "nspawn"
    SLURM = "slurm"
    SYSTEMD = "systemd"
    """A unit or a scope of its own, as ``systemd-run`` makes."""
    ACTIONS = "github-actions"
    BUILDKIT = "buildkit"
    OTHER = "other"
    """A cgroup directly below an owned scope that no pattern knows."""


_OPEN = frozenset((Runtime.OTHER, Runtime.DOCKER))


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a sandbox comes from. What a tenant may have chosen (name, labels, image) only chooses
    among the policies that a scope permits; escape it before printing."""

    runtime: Runtime
    container: str | None = None
    """The runtime's id, 64 hexadecimal digits in most."""
    name: str | None = None
    """The container's name."""
    image: str | None = None
    pod: str | None = None
    """The pod's uid, with dashes; its name where the runtime was asked."""
    namespace: str | None = None
    """Of Kubernetes."""
    job: str | None = None
    """Of Slurm."""
    step: str | None = None
    """Of Slurm."""
    unit: str | None = None
    """Of systemd, such as ``run-r1.scope``."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """OCI labels and annotations, as the runtime tells them."""

    def enriched(self, told: Origin | None) -> Origin:
        """Return this with what is *told* beside it; what the path says is not told otherwise.

        The runtime is, where the path leaves it open: a bare id is what several make.
        """
        if told is None:
            return self
        is_open = self.runtime in _OPEN and told.runtime is not Runtime.OTHER
        return replace(
            self,
            runtime=told.runtime if is_open else self.runtime,
            container=self.container or told.container,
            name=told.name or self.name,
            image=told.image or self.image,
            pod=told.pod or self.pod,
            namespace=told.namespace or self.namespace,
            job=self.job or told.job,
            step=self.step or told.step,
            unit=self.unit or told.unit,
            labels={**self.labels, **told.labels},
        )
