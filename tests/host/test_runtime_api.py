# SPDX-License-Identifier: Apache-2.0
"""What real runtimes tell of real containers, and what becomes of those that tell nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.containerd import containerd_sandbox
from rig.containers import IMAGE, podman_engine, podman_service, private_dockerd, spelled
from rig.scratch import scratch

from agentwall.flow.origin import Origin, Runtime
from agentwall.host import runtime_api
from agentwall.host.cgroup_names import identify
from agentwall.host.oci_bundle import CONTAINERD_TASKS, POD_HOLDER, Places
from agentwall.host.runtime_api import RuntimeDirectory

ID = "1f2e3d4c5b6a79880f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"
NOWHERE = Places(containerd=(), storage=())
DOCKER = Origin(runtime=Runtime.DOCKER, container=ID)
LABELS = {"role": "rollout", "run": "17"}


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """An engine, and a machine that is busy with other tests, may take their time."""
    monkeypatch.setattr(runtime_api, "TIMEOUT_S", 60.0)


@contextmanager
def answering(*pieces: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """Answer the first connection with *pieces*, waiting before each; yield the socket's path."""
    with scratch("api") as directory, socket.socket(socket.AF_UNIX) as server:
        path = str(directory / "s")
        server.bind(path)
        server.listen()
        over = threading.Event()

        def serve() -> None:
            with server.accept()[0] as client, suppress(OSError):
                client.recv(4096)
                for piece in pieces:
                    if over.wait(pause_s):
                        return
                    client.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX) as last:  # In case nobody ever came.
                last.connect(path)
            thread.join()


def directory(path: str | Path, places: Places = NOWHERE) -> RuntimeDirectory:
    return RuntimeDirectory({Runtime.DOCKER: str(path), Runtime.PODMAN: str(path)}, places)


def http(body: object, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n\r\n".encode() + json.dumps(body).encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "expected an answer in HTTP"),
        (b"\x00\xff garbage\r\n\r\n{}", "expected an answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "expected an answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n{", "expected JSON: JSONDecodeError"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "expected JSON: RecursionError"),
        (http([]), "expected a container"),
        (http({"Config": 1}), "expected a container"),
        (http({}, "500 Internal Server Error"), "expected status 200, got 500"),
        (http({}, "404 Not Found"), f"no container {ID[:12]}"),
    ],
)
def test_answers_that_are_none(answer, expected):
    """Each is a reason, in words."""
    with answering(answer) as path:
        assert expected in str(directory(path).ask(DOCKER))


def test_an_answer_without_end():
    """No more is taken than a container's description can be."""
    pieces = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * (1 << 20)] * 5]
    with answering(*pieces) as path:
        assert "expected at most 4194304 bytes" in str(directory(path).ask(DOCKER))


@pytest.mark.parametrize("pieces", [[], [b"x"] * 100], ids=["nothing", "a byte at a time"])
def test_one_that_never_answers(monkeypatch, pieces):
    """The time for the whole answer is limited, not that for each piece of it."""
    monkeypatch.setattr(runtime_api, "TIMEOUT_S", 0.3)
    with answering(*pieces, b"end", pause_s=0.2 if pieces else 60) as path:
        # Who waited longer would have got the last piece, and the end.
        assert directory(path).ask(DOCKER) == f"docker: {path}: no answer within 0.3 s"


def test_no_socket(tmp_path):
    """A socket that is not there, or nobody listens on, or is none, is a reason."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
    (tmp_path / "file").touch()

    for name, expected in {
        "absent": "No such file or directory",
        "deaf": "Connection refused",
        "file": "Connection refused",
        "x" * 200: "AF_UNIX path too long",
    }.items():
        assert expected in str(directory(tmp_path / name).ask(DOCKER))


@pytest.mark.parametrize(
    "container", ["../images", "a/../../info", "a b", "a\r\nX: y", "", "-a", "a" * 129]
)
def test_an_id_that_is_none(container):
    """It reaches neither a socket nor a path."""
    told = RuntimeDirectory({Runtime.DOCKER: "/nonexistent"}, NOWHERE)

    assert told.ask(Origin(runtime=Runtime.DOCKER, container=container)) == (
        "container: expected an id"
    )


@pytest.mark.parametrize(
    "origin",
    [
        Origin(runtime=Runtime.SLURM, job="1", step="0"),
        Origin(runtime=Runtime.LXC, container="web", name="web"),
        Origin(runtime=Runtime.OTHER),
    ],
)
def test_nobody_to_ask(origin):
    """What has no runtime that keeps anything stays as it is."""
    assert RuntimeDirectory({}, NOWHERE).ask(origin) == origin


def test_labels_of_a_tenant():
    """They are bounded, what is left out is counted, and none makes a pod of a plain container."""
    labels = {
        "io.kubernetes.docker.type": "podsandbox",
        "io.kubernetes.pod.namespace": "kube-system",
        "long": "x" * 10_000,
    }
    document = {"Name": "/x", "Config": {"Image": "i" * 1000, "Labels": labels}}
    with answering(http(document)) as path:
        asked = directory(path)
        answer = asked.ask(DOCKER)

        assert isinstance(answer, Origin)
        assert (answer.name, answer.pod, answer.namespace) == ("x", None, None)
        assert len(answer.image or "") == 256
        assert "long" not in answer.labels
        assert asked.dropped == 1


def test_containers_of_cri_dockerd():
    """In a pod, as the path tells, the kubelet's labels name it; its holder has its own name."""
    labels = {
        "io.kubernetes.docker.type": "podsandbox",
        "io.kubernetes.pod.namespace": "rl",
        "io.kubernetes.pod.name": "rollout-17",
        "io.kubernetes.container.name": "POD",
    }
    in_pod = Origin(runtime=Runtime.DOCKER, container=ID, pod="uid")
    with answering(http({"Name": "/k8s_POD", "Config": {"Labels": labels}})) as path:
        answer = directory(path).ask(in_pod)

        assert isinstance(answer, Origin)
        assert (answer.name, answer.pod, answer.namespace) == (POD_HOLDER, "rollout-17", "rl")


@pytest.mark.parametrize(
    ("spelled", "cgroup", "holds"),
    [
        ("/a/libpod-x", "/a/libpod-x", True),
        ("/a/libpod-x", "/user.slice/a/libpod-x", False),
        ("a-b.slice:crio:x", "/a.slice/a-b.slice/crio-x.scope", True),
        ("a-b.slice:crio:x", "/user.slice/a.slice/a-b.slice/crio-x.scope", False),
        ("a.slice:crio:x", "/system.slice/containerd.service/a.slice:crio:x", True),
        ("a.slice:crio:x", "/user.slice/a.slice:crio:x", False),
    ],
)
def test_a_cgroup_named_after_another(tmp_path, spelled, cgroup, holds):
    """Files about a container that lives elsewhere say nothing of this one."""
    bundle = tmp_path / "k8s.io" / ID
    bundle.mkdir(parents=True)
    document = {"annotations": {"role": "x"}, "linux": {"cgroupsPath": spelled}}
    (bundle / "config.json").write_text(json.dumps(document))
    asked = RuntimeDirectory({}, Places(containerd=(tmp_path,), storage=()))
    answer = asked.ask(Origin(runtime=Runtime.KUBERNETES, container=ID), cgroup)

    assert isinstance(answer, Origin) is holds


def test_what_containerd_makes_without_docker(tmp_path):
    """A bare id of which dockerd knows nothing is looked for beside the socket of containerd."""
    bundle = tmp_path / CONTAINERD_TASKS / "default" / ID
    bundle.mkdir(parents=True)
    document = {"annotations": {"nerdctl/name": "box"}, "linux": {"cgroupsPath": f"/x/{ID}"}}
    (bundle / "config.json").write_text(json.dumps(document))
    sockets = {Runtime.CONTAINERD: str(tmp_path / "containerd.sock")}
    asked = RuntimeDirectory({**sockets, Runtime.DOCKER: str(tmp_path / "none")})

    assert asked.ask(DOCKER, f"/x/{ID}") == Origin(
        runtime=Runtime.CONTAINERD, container=ID, name="box", labels={"nerdctl/name": "box"}
    )
    assert "another cgroup" in str(asked.ask(DOCKER, f"/user.slice/{ID}"))


@pytest.mark.kernel
def test_podman():
    """podman tells by its service, and by its files where none runs; labels only the service."""
    with podman_engine() as engine, temp_cgroup("podman") as parent:
        places = Places(containerd=(), storage=(engine.directory / "root",))
        silent = directory(engine.directory / "absent", places)
        with engine.sandbox(parent, name="box-1", labels=LABELS) as container:
            found = identify(container.cgroup)
            expected = (Runtime.PODMAN, container.id, "box-1", f"localhost/{IMAGE}")
            assert found.origin is not None
            by_files = silent.ask(found.origin, found.cgroup)
            with podman_service(engine) as path:
                by_service = directory(path).ask(found.origin, found.cgroup)
                elsewhere = directory(path).ask(found.origin, "/elsewhere")

    for answer in (by_files, by_service):
        assert isinstance(answer, Origin)
        assert (answer.runtime, answer.container, answer.name, answer.image) == expected
    assert isinstance(by_service, Origin)
    assert by_service.labels == LABELS
    assert "runs in another cgroup" in str(elsewhere)


@pytest.mark.kernel
def test_docker():
    """dockerd tells name, image and labels, and not of what it does not run any more."""
    with private_dockerd() as engine, temp_cgroup("docker") as parent:
        assert engine.socket is not None
        asked = directory(engine.socket)
        with engine.sandbox(parent, name="box-1", labels=LABELS) as container:
            found = identify(container.cgroup)
            assert found.origin is not None
            answer = asked.ask(found.origin, found.cgroup)
            engine.call("stop", "-t", "0", container.id)
            stopped = asked.ask(found.origin, found.cgroup)
        gone = asked.ask(found.origin, found.cgroup)

    assert answer == Origin(
        runtime=Runtime.DOCKER, container=container.id, name="box-1", image=IMAGE, labels=LABELS
    )
    assert stopped == f"container {container.id[:12]}: not running yet"
    assert gone == f"docker: no container {container.id[:12]}"


@pytest.mark.kernel
def test_containerd():
    """containerd's bundle of a real container tells its annotations, and where it lives."""
    with (
        temp_cgroup("containerd") as parent,
        containerd_sandbox(parent, "my-box", LABELS) as (bundles, cgroup),
    ):
        asked = RuntimeDirectory({}, Places(containerd=(bundles,), storage=()))
        origin = Origin(runtime=Runtime.CONTAINERD, container="my-box")

        assert (cgroup / "cgroup.procs").read_text()
        assert asked.ask(origin, spelled(cgroup)) == Origin(
            runtime=Runtime.CONTAINERD, container="my-box", labels=LABELS
        )
        assert "another cgroup" in str(asked.ask(origin, "/default/my-box"))
