# SPDX-License-Identifier: Apache-2.0
"""What the files say that runtimes keep of a container: its OCI bundle, and podman's own list.

They belong to root on the host; nothing is read from inside a container. For containerd and CRI-O
they stand for the CRI, whose protocol is gRPC. Counterpart: :mod:`agentwall.host.runtime_api`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentwall.flow.origin import Origin, Runtime

POD_HOLDER = "POD"
"""Name given to the container that only holds a pod together. No other container of a pod can have
it: Kubernetes permits no capitals."""

_MAX_BUNDLE_BYTES = 4 << 20
_MAX_LIST_BYTES = 16 << 20
_MAX_NAME = 256
_MAX_LABELS = 64
_MAX_KEY = 256
_MAX_VALUE = 4096
_MAX_TOTAL = 16_384
"""Characters of all labels of one container: a daemon keeps a thousand."""

CONTAINERD_TASKS = "io.containerd.runtime.v2.task"
"""In containerd's state directory: a directory for each of its namespaces, with the bundles."""
_NAMESPACES = {"moby": Runtime.DOCKER, "k8s.io": Runtime.KUBERNETES}
"""Of containerd, those whose containers somebody else makes through it."""

_CONTAINERD = "io.kubernetes.cri."
_CRI_O = "io.kubernetes.cri-o."


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a runtime says of one container."""

    name: str | None = None
    image: str | None = None
    pod: str | None = None
    """The pod's name."""
    namespace: str | None = None
    runtime: Runtime | None = None
    """Whose it is; None where the path of its cgroup tells."""
    labels: Mapping[str, str] = field(default_factory=dict)
    dropped: int = 0
    """Labels that were left out."""
    pid: int | None = None
    """Of its first process; None where that is not told."""
    cgroup: str | None = None
    """As the bundle spells it, ``slice:prefix:name`` too; None where that is not told."""

    def added_to(self, origin: Origin) -> Origin:
        """Return *origin* with everything that was told."""
        return replace(
            origin,
            runtime=self.runtime or origin.runtime,
            name=self.name or origin.name,
            image=self.image or origin.image,
            pod=self.pod or origin.pod,
            namespace=self.namespace or origin.namespace,
            labels=self.labels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where runtimes keep their files."""

    containerd: tuple[Path, ...] = (
        Path("/run/containerd") / CONTAINERD_TASKS,
        Path("/run/k3s/containerd") / CONTAINERD_TASKS,
    )
    storage: tuple[Path, ...] = (
        Path("/run/containers/storage"),
        Path("/var/run/containers/storage"),
        Path("/var/lib/containers/storage"),
    )
    """Of podman and CRI-O."""


def runtime_of(bundle: Path) -> Runtime | None:
    """Return whose a bundle is by its place, below containerd's state; None: it is elsewhere."""
    if bundle.parent.parent.name != CONTAINERD_TASKS:
        return None
    return _owner(bundle.parent.name)


def _owner(namespace: str) -> Runtime:
    return _NAMESPACES.get(namespace, Runtime.CONTAINERD)


def read_bundle(origin: Origin, places: Places) -> Told | str:
    """Return what the files of the runtime of *origin* say of its container, or why nothing.

    The container's id has been checked to be a plain name. May wait for a slow disk.
    """
    container = origin.container or ""
    problems = []
    for bundle in _bundles(origin, places):
        document = _read_json(bundle / "config.json", _MAX_BUNDLE_BYTES)
        if isinstance(document, str):
            problems.append(document)
        elif isinstance(document, dict):
            told = _read_config(document, in_pod=origin.pod is not None)
            if origin.runtime is Runtime.PODMAN:
                return _with_podmans_list(told, bundle.parent.parent, container)
            is_open = origin.runtime is Runtime.DOCKER
            return replace(told, runtime=_owner(bundle.parent.name)) if is_open else told
        else:
            problems.append(f"{bundle}: expected an object")
    return problems[-1] if problems else f"container {container[:12]}: no bundle on this host"


def _bundles(origin: Origin, places: Places) -> Iterator[Path]:
    container = origin.container or ""
    if origin.runtime not in (Runtime.PODMAN, Runtime.CRI_O):
        for root in places.containerd:
            # One directory for each of containerd's namespaces: k8s.io, default, moby.
            for directory in _listed(root):
                # Of its own Docker itself tells, if not yet; any bare id is taken for Docker's.
                is_dockers = origin.runtime is Runtime.DOCKER and directory.name == "moby"
                if not is_dockers and (directory / container).is_dir():
                    yield directory / container
    if origin.runtime not in (Runtime.CONTAINERD, Runtime.DOCKER):
        for root in places.storage:
            for kind in ("overlay", "vfs", "btrfs", "zfs"):
                bundle = root / f"{kind}-containers" / container / "userdata"
                if (bundle / "config.json").exists():
                    yield bundle


def _listed(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError:
        return []


def _read_json(path: Path, limit: int) -> object | str:
    """The document in *path*, or why there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return f"{path}: expected a file"
            text = file.read(limit + 1)
    except OSError as err:
        return f"{path}: {err.strerror}"
    return f"{path}: expected at most {limit} bytes" if len(text) > limit else parse_json(text)


def parse_json(text: bytes) -> object | str:
    """Return the document in *text*, or what is wrong with it."""
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as err:
        return f"expected JSON: {type(err).__name__}"
    return "expected JSON with an object, got a text" if isinstance(document, str) else document


def _read_config(document: Mapping[str, object], *, in_pod: bool) -> Told:
    annotations = document.get("annotations")
    labels, dropped = bounded_labels(annotations)
    linux = document.get("linux")
    cgroup = linux.get("cgroupsPath") if isinstance(linux, dict) else None
    told = Told(labels=labels, dropped=dropped, cgroup=text_of(cgroup, limit=4096))
    if not isinstance(annotations, dict):
        return told
    if annotations.get("nerdctl/name"):
        told = replace(told, name=text_of(annotations["nerdctl/name"]))
    return _with_pod(told, annotations) if in_pod else told


def _with_pod(told: Told, annotations: Mapping[str, object]) -> Told:
    if _CONTAINERD + "container-type" in annotations:
        keys = ("container-name", "image-name", "sandbox-name", "sandbox-namespace")
        names = [text_of(annotations.get(_CONTAINERD + key)) for key in keys]
        kind = annotations[_CONTAINERD + "container-type"]
    else:
        names = [
            text_of(annotations.get("io.kubernetes.container.name")),
            text_of(annotations.get(_CRI_O + "ImageName")),
            text_of(annotations.get("io.kubernetes.pod.name"))
            or text_of(annotations.get(_CRI_O + "KubeName")),
            text_of(annotations.get("io.kubernetes.pod.namespace"))
            or text_of(annotations.get(_CRI_O + "Namespace")),
        ]
        kind = annotations.get(_CRI_O + "ContainerType")
    name = POD_HOLDER if kind == "sandbox" else names[0]
    return replace(told, name=name, image=names[1], pod=names[2], namespace=names[3])


def _with_podmans_list(told: Told, storage: Path, container: str) -> Told:
    """Add name and image, which podman keeps beside the bundles; labels only its API tells."""
    listed = _read_json(storage / "containers.json", _MAX_LIST_BYTES)
    if not isinstance(listed, list):
        return told
    entries = (entry for entry in listed if isinstance(entry, dict))
    entry = next((entry for entry in entries if entry.get("id") == container), None)
    metadata = entry.get("metadata") if entry else None
    inner = parse_json(metadata.encode()) if isinstance(metadata, str) else None
    if not isinstance(inner, dict):
        return told
    return replace(told, name=text_of(inner.get("name")), image=text_of(inner.get("image-name")))


def text_of(value: object, limit: int = _MAX_NAME) -> str | None:
    """Return *value* if it is a text, its end cut off where it is longer than *limit*."""
    return value[:limit] if isinstance(value, str) and value else None


def bounded_labels(value: object) -> tuple[dict[str, str], int]:
    """Return the labels in *value*, and how many were left out: for their size or number.

    None is shortened: half a value could be another's whole one.
    """
    if not isinstance(value, dict):
        return {}, 0
    kept: dict[str, str] = {}
    left = _MAX_TOTAL
    for key, text in value.items():
        fits = isinstance(text, str) and len(key) <= _MAX_KEY and len(text) <= _MAX_VALUE
        if fits and len(kept) < _MAX_LABELS and len(key) + len(text) <= left:
            kept[key] = text
            left -= len(key) + len(text)
    return kept, len(value) - len(kept)
