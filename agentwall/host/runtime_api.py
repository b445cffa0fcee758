# SPDX-License-Identifier: Apache-2.0
"""Ask the runtime that made a container what it is called, from which image, with which labels.

Docker and podman answer over HTTP on their unix sockets; of containerd and CRI-O, and of podman
where no service runs, the files are read (:mod:`agentwall.host.oci_bundle`). Everything here may
wait up to :data:`TIMEOUT_S` and belongs into a worker thread. A runtime does not answer about a
container while it starts it: who is asked from a hook of that start gives no answer in time.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agentwall.flow.origin import Origin, Runtime
from agentwall.host.cgroup import path_of
from agentwall.host.oci_bundle import (
    CONTAINERD_TASKS,
    POD_HOLDER,
    Places,
    Told,
    bounded_labels,
    parse_json,
    read_bundle,
    text_of,
)

TIMEOUT_S = 1.0
"""For one answer, from connecting to its last byte."""
SOCKETS: Mapping[Runtime, str] = {
    Runtime.DOCKER: "/run/docker.sock",
    Runtime.PODMAN: "/run/podman/podman.sock",
}

_MAX_ANSWER_BYTES = 4 << 20
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_ASKED = {
    Runtime.DOCKER: Runtime.DOCKER,
    Runtime.BUILDKIT: Runtime.DOCKER,
    Runtime.PODMAN: Runtime.PODMAN,
}
_HAS_FILES = frozenset(
    (
        *(Runtime.PODMAN, Runtime.CONTAINERD, Runtime.CRI_O, Runtime.KUBERNETES, Runtime.KATA),
        Runtime.DOCKER,
    )
)
"""Docker for what containerd makes without it: a bare id is what nerdctl names a cgroup, too."""
_WITH_CONTAINERD = (Runtime.CONTAINERD, Runtime.KUBERNETES)


class RuntimeDirectory:
    """Knows whom to ask about a container.

    Args:
        runtimes: Sockets by runtime, in place of :data:`SOCKETS`. Beside that of containerd, which
            is in its state directory, its bundles are.
        places: Where runtimes keep their files, whatever *runtimes* says.
    """

    def __init__(self, runtimes: Mapping[Runtime, str], places: Places | None = None) -> None:
        self._sockets = {**SOCKETS, **runtimes}
        self._places = places or _places_by(runtimes)
        self.dropped = 0
        """Labels that were left out of answers so far, for their size or number."""

    def ask(self, origin: Origin, cgroup: str | None = None) -> Origin | str:
        """Return *origin* with what its runtime says, or why there is no answer.

        Args:
            origin: As the path of its cgroup tells it.
            cgroup: The sandbox's own. Where it is given, an answer about a container that lives
                elsewhere is none: who may make cgroups could name one after another's container.

        Never raises. An origin whose runtime keeps nothing to be asked comes back as it is.
        """
        if origin.container is None:
            return origin
        if not _CONTAINER.fullmatch(origin.container):
            return "container: expected an id"
        told = self._ask(origin)
        if told is None or isinstance(told, str):
            return origin if told is None else told
        is_kata = origin.runtime is Runtime.KATA
        if cgroup is not None and (problem := _elsewhere(told, cgroup, is_kata=is_kata)):
            return f"container {origin.container[:12]}: {problem}"
        self.dropped += told.dropped
        return told.added_to(origin)

    def _ask(self, origin: Origin) -> Told | str | None:
        asked = _ASKED.get(origin.runtime)
        problem = None
        if asked is not None:
            told = ask_engine(self._sockets[asked], origin.container or "")
            if isinstance(told, Told):
                return _with_pod(told) if origin.pod is not None else told
            problem = f"{asked.value}: {told}"
        if origin.runtime in _HAS_FILES:
            read = read_bundle(origin, self._places)
            if problem is None or not isinstance(read, str):
                return read
            if origin.runtime is not Runtime.DOCKER:  # of whose own no file would tell
                problem = f"{problem}; {read}"
        return problem


def _places_by(runtimes: Mapping[Runtime, str]) -> Places:
    sockets = [runtimes[each] for each in _WITH_CONTAINERD if each in runtimes]
    named = (Path(socket).parent / CONTAINERD_TASKS for socket in sockets)
    return Places(containerd=tuple(dict.fromkeys((*named, *Places().containerd))))


def ask_engine(path: str, container: str) -> Told | str:
    """Return what the engine that listens on *path* says of *container*, or why it says nothing.

    Docker's API; podman serves the same. The id has been checked to be a plain name.
    """
    request = f"GET /containers/{container}/json HTTP/1.0\r\nHost: localhost\r\n\r\n"
    try:
        answer = _exchange(path, request.encode())
    except TimeoutError:
        return f"{path}: no answer within {TIMEOUT_S:g} s"
    except OSError as err:
        return f"{path}: {err.strerror or err}"
    head, separator, body = answer.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if len(answer) > _MAX_ANSWER_BYTES:
        return f"{path}: expected at most {_MAX_ANSWER_BYTES} bytes"
    if not separator or not status:
        return f"{path}: expected an answer in HTTP"
    if status[1] == b"404":
        return f"no container {container[:12]}"
    if status[1] != b"200":
        return f"{path}: expected status 200, got {status[1].decode()}"
    document = parse_json(body)
    if isinstance(document, str):
        return f"{path}: {document}"
    return _read_inspection(document) or f"{path}: expected a container"


def _exchange(path: str, request: bytes) -> bytes:
    deadline_s = time.monotonic() + TIMEOUT_S
    received: list[bytes] = []
    size = 0
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(path)
        client.sendall(request)
        while size <= _MAX_ANSWER_BYTES:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            # Of the whole answer, not of each piece: one byte a second would never end.
            client.settimeout(left_s)
            piece = client.recv(64 << 10)
            if not piece:
                break
            received.append(piece)
            size += len(piece)
    return b"".join(received)


def _read_inspection(document: object) -> Told | None:
    config = document.get("Config") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(config, dict):
        return None
    labels, dropped = bounded_labels(config.get("Labels"))
    state = document.get("State")
    pid = state.get("Pid") if isinstance(state, dict) else None
    name = text_of(document.get("Name"))
    return Told(
        name=name.removeprefix("/") if name else None,
        image=text_of(config.get("Image")),
        labels=labels,
        dropped=dropped,
        pid=pid if isinstance(pid, int) else None,
    )


def _with_pod(told: Told) -> Told:
    """Read the labels that cri-dockerd sets; only where the path itself tells of a pod."""
    prefix = "io.kubernetes."
    holds = told.labels.get(prefix + "docker.type") == "podsandbox"
    return replace(
        told,
        name=POD_HOLDER if holds else told.labels.get(prefix + "container.name", told.name),
        pod=told.labels.get(prefix + "pod.name"),
        namespace=told.labels.get(prefix + "pod.namespace"),
    )


def _elsewhere(told: Told, cgroup: str, *, is_kata: bool) -> str | None:
    """Return what speaks against the container's being the one in *cgroup*, or None."""
    if told.pid is not None:
        lives_in = path_of(told.pid) if told.pid > 0 else None
        if lives_in is None:
            return "not running yet"
        is_there = (lives_in + "/").startswith(cgroup + "/")
        return None if is_there else f"it runs in another cgroup, not in {os.path.basename(cgroup)}"
    # Kata names a cgroup of its own beside the one it was given.
    if told.cgroup is None or _is_meant(told.cgroup, cgroup) or is_kata:
        return None
    return f"its files name another cgroup than {os.path.basename(cgroup)}"


def _is_meant(spelled: str, cgroup: str) -> bool:
    """Say whether a bundle that spells its cgroup so means *cgroup*.

    To runc with its systemd driver, ``a-b.slice:prefix:name`` is
    ``/a.slice/a-b.slice/prefix-name.scope``; without it, a name below containerd's own cgroup.
    """
    parts = spelled.split(":")
    if len(parts) != 3:
        return cgroup == spelled
    names = parts[0].removesuffix(".slice").split("-")
    slices = ["-".join(names[: last + 1]) + ".slice" for last in range(len(names))]
    path = "/".join(("", *slices, f"{parts[1]}-{parts[2]}.scope"))
    is_below_a_service = cgroup.startswith("/system.slice/") and cgroup.endswith("/" + spelled)
    return cgroup == path or is_below_a_service
