# SPDX-License-Identifier: Apache-2.0
"""What a runtime's own files tell, and what becomes of files that are not as they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.flow.origin import Origin, Runtime
from agentwall.host.oci_bundle import (
    POD_HOLDER,
    Places,
    Told,
    bounded_labels,
    parse_json,
    read_bundle,
    runtime_of,
)

ID = "1f2e3d4c5b6a79880f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"
UID = "83b090de-9676-407c-99aa-d33dc6aa0c0d"
CGROUP = f"kubepods-pod{UID.replace('-', '_')}.slice:cri-containerd:{ID}"
CONTAINERD = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": "agent",
    "io.kubernetes.cri.image-name": "registry.example/agent:7",
    "io.kubernetes.cri.sandbox-name": "rollout-17",
    "io.kubernetes.cri.sandbox-namespace": "rl",
    "io.kubernetes.cri.sandbox-uid": UID,
}
CRI_O = {
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.ContainerName": "k8s_agent_rollout-17_rl_0",
    "io.kubernetes.cri-o.ImageName": "registry.example/agent:7",
    "io.kubernetes.container.name": "agent",
    "io.kubernetes.pod.name": "rollout-17",
    "io.kubernetes.pod.namespace": "rl",
}


@pytest.fixture
def places(tmp_path):
    """Empty places of both kinds."""
    return Places(containerd=(tmp_path / "tasks",), storage=(tmp_path / "storage",))


def write(directory, document) -> None:
    directory.mkdir(parents=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (directory / "config.json").write_text(text)


def origin(runtime: Runtime, pod: str | None = None) -> Origin:
    return Origin(runtime=runtime, container=ID, pod=pod)


@pytest.mark.parametrize(
    ("runtime", "where", "annotations"),
    [
        (Runtime.KUBERNETES, f"tasks/k8s.io/{ID}", CONTAINERD),
        (Runtime.KUBERNETES, f"storage/overlay-containers/{ID}/userdata", CRI_O),
        (Runtime.CRI_O, f"storage/overlay-containers/{ID}/userdata", CRI_O),
    ],
)
def test_container_of_a_pod(tmp_path, places, runtime, where, annotations):
    """Names, image, namespace and the cgroup it was given are read from its bundle."""
    document = {"annotations": annotations, "linux": {"cgroupsPath": CGROUP}}
    write(tmp_path / where, document)

    assert read_bundle(origin(runtime, UID), places) == Told(
        name="agent",
        image="registry.example/agent:7",
        pod="rollout-17",
        namespace="rl",
        labels=annotations,
        cgroup=CGROUP,
    )


@pytest.mark.parametrize(
    ("annotations", "key"),
    [
        (CONTAINERD, "io.kubernetes.cri.container-type"),
        (CRI_O, "io.kubernetes.cri-o.ContainerType"),
    ],
)
def test_holder_of_a_pod(tmp_path, places, annotations, key):
    """The container that only holds the pod together has a name that no other can have."""
    write(tmp_path / "tasks/k8s.io" / ID, {"annotations": {**annotations, key: "sandbox"}})
    told = read_bundle(origin(Runtime.KUBERNETES, UID), places)

    assert isinstance(told, Told)
    assert (told.name, told.namespace) == (POD_HOLDER, "rl")


def test_annotations_make_no_pod(tmp_path, places):
    """A container whose path tells of no pod is in no namespace, whatever was written on it."""
    write(tmp_path / "tasks/default" / ID, {"annotations": {**CONTAINERD, "nerdctl/name": "mine"}})
    told = read_bundle(origin(Runtime.CONTAINERD), places)

    assert isinstance(told, Told)
    assert (told.name, told.pod, told.namespace) == ("mine", None, None)


def test_podmans_list(tmp_path, places):
    """Name and image come from podman's own list; without it there is the bundle alone."""
    storage = tmp_path / "storage/overlay-containers"
    write(storage / ID / "userdata", {"annotations": {"a": "b"}})
    metadata = json.dumps({"name": "x1", "image-name": "localhost/img:1"})
    listed = [{"id": "other"}, "garbage", {"id": ID, "metadata": metadata}]

    assert read_bundle(origin(Runtime.PODMAN), places) == Told(labels={"a": "b"})
    (storage / "containers.json").write_text(json.dumps(listed))
    assert read_bundle(origin(Runtime.PODMAN), places) == Told(
        name="x1", image="localhost/img:1", labels={"a": "b"}
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected JSON: JSONDecodeError"),
        ("{", "expected JSON: JSONDecodeError"),
        ("[" * 100_000, "expected JSON: RecursionError"),
        ("[1]", "expected an object"),
        ('"text"', "expected JSON with an object, got a text"),
    ],
)
def test_garbage(tmp_path, places, text, expected):
    """What is no bundle is a reason, not an error."""
    write(tmp_path / "tasks/k8s.io" / ID, text)

    assert expected in str(read_bundle(origin(Runtime.KUBERNETES), places))


@pytest.mark.parametrize(
    "document", [{}, {"annotations": []}, {"annotations": {"a": 1}, "linux": 0}]
)
def test_a_bundle_that_tells_nothing(tmp_path, places, document):
    """Keys of another kind than expected are as good as absent."""
    write(tmp_path / "tasks/k8s.io" / ID, document)
    told = read_bundle(origin(Runtime.KUBERNETES, UID), places)

    assert isinstance(told, Told)
    assert (told.name, told.labels, told.cgroup) == (None, {}, None)


def test_no_file_to_read(tmp_path, places):
    """Nothing there, something else than a file, a link or too much of it: a reason each."""
    bundle = tmp_path / "tasks/k8s.io" / ID
    known = origin(Runtime.KUBERNETES)

    assert read_bundle(known, places) == f"container {ID[:12]}: no bundle on this host"
    bundle.mkdir(parents=True)
    config = bundle / "config.json"
    assert read_bundle(known, places) == f"{config}: No such file or directory"
    os.mkfifo(config)
    assert read_bundle(known, places) == f"{config}: expected a file"
    config.unlink()
    config.symlink_to("/etc/passwd")
    assert read_bundle(known, places) == f"{config}: Too many levels of symbolic links"
    config.unlink()
    config.write_text(" " * (4 << 20) + "{}")
    assert read_bundle(known, places) == f"{config}: expected at most {4 << 20} bytes"


def test_labels_are_bounded():
    """What is too long, too many, too much in all or no text is left out whole, and counted."""
    many = {f"k{number}": "v" for number in range(100)}

    assert bounded_labels(many) == ({f"k{number}": "v" for number in range(64)}, 36)
    assert bounded_labels({"k" * 256: "v" * 4096}) == ({"k" * 256: "v" * 4096}, 0)
    assert bounded_labels({"k" * 257: "v", "a": "v" * 10_000, "b": 1, "c": "d"}) == ({"c": "d"}, 3)
    kept, dropped = bounded_labels({f"k{number}": "v" * 4000 for number in range(10)})
    assert (len(kept), dropped) == (4, 6)
    assert bounded_labels(None) == bounded_labels([]) == ({}, 0)


@given(
    st.one_of(
        st.binary(),
        st.text().map(str.encode),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
        ).map(lambda document: json.dumps(document).encode()),
    )
)
def test_parsing_never_raises(data):
    """Whatever the bytes are, there is a document or a reason."""
    document = parse_json(data)

    if not isinstance(document, str):
        assert document == json.loads(data) or document != document


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/run/containerd/io.containerd.runtime.v2.task/default/box", Runtime.CONTAINERD),
        ("/run/containerd/io.containerd.runtime.v2.task/moby/box", Runtime.DOCKER),
        ("/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/box", Runtime.KUBERNETES),
        ("/var/lib/containers/storage/overlay-containers/box/userdata", None),
        ("/run/containerd/io.containerd.runtime.v2.task/box", None),
        ("box", None),
        ("/", None),
    ],
)
def test_whose_a_bundle_is(place, expected):
    """Docker and Kubernetes have namespaces of containerd; of other places nothing is known."""
    assert runtime_of(Path(place)) is expected


def test_a_bare_id_is_not_always_dockers(places):
    """What is taken for Docker's may be containerd's own; what Docker made by it tells nothing."""
    root = places.containerd[0]
    write(root / "moby" / ID, {"annotations": {"a": "1"}})
    dockers = read_bundle(origin(Runtime.DOCKER), places)
    write(root / "tenants" / ID, {"annotations": {"nerdctl/name": "box", "a": "2"}})
    own = read_bundle(origin(Runtime.DOCKER), places)

    assert dockers == f"container {ID[:12]}: no bundle on this host"
    assert own == Told(
        name="box", runtime=Runtime.CONTAINERD, labels={"nerdctl/name": "box", "a": "2"}
    )
