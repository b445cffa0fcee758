# SPDX-License-Identifier: Apache-2.0
"""Which cgroups below a scope are sandboxes."""

from __future__ import annotations

import contextlib
import gc
import select
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.cgroup import temp_cgroup
from rig.containers import IMAGE, Engine, podman_engine, podman_service, private_dockerd, spelled
from rig.process import wait_until

from agentwall.daemon.config import Scope, ScopeKind
from agentwall.daemon.discovery import (
    Candidate,
    can_hold,
    candidate_at,
    gives_way,
    is_excluded,
)
from agentwall.flow.origin import Origin, Runtime
from agentwall.host import runtime_api
from agentwall.host.cgroup_watch import Appeared, CgroupWatch
from agentwall.host.oci_bundle import Places
from agentwall.host.runtime_api import RuntimeDirectory

ID = "1f2e3d4c5b6a79880f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"
UID = "83b090de-9676-407c-99aa-d33dc6aa0c0d"
POD = f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice"
RUN = "agentwall-20260731T101112Z-0a1b2c"
OTHER = Origin(runtime=Runtime.OTHER)


def owned(cgroup="/agentwall.slice", **options):
    return Scope(cgroup=cgroup, kind=ScopeKind.OWNED, default="default-deny", **options)


def shared(cgroup="/system.slice", **options):
    return Scope(cgroup=cgroup, kind=ScopeKind.SHARED, **options)


def docker(path):
    return Candidate(path, Origin(runtime=Runtime.DOCKER, container=ID))


def unit(path, name):
    return Candidate(path, Origin(runtime=Runtime.SYSTEMD, unit=name), is_known=False)


OWNED = [
    ("/agentwall.slice", None),
    ("/agentwall.slicex/a", None),
    ("/elsewhere/a", None),
    # A form that is known, wherever it is.
    (f"/agentwall.slice/{ID}", docker(f"/agentwall.slice/{ID}")),
    (f"/agentwall.slice/{ID}/inner", docker(f"/agentwall.slice/{ID}")),
    (
        f"/agentwall.slice/team/docker-{ID}.scope",
        docker(f"/agentwall.slice/team/docker-{ID}.scope"),
    ),
    (f"/agentwall.slice/{ID}/docker/{'a' * 64}", docker(f"/agentwall.slice/{ID}")),
    (
        f"/agentwall.slice/{RUN}",
        Candidate(
            f"/agentwall.slice/{RUN}",
            Origin(runtime=Runtime.AGENTWALL, container=RUN.removeprefix("agentwall-")),
        ),
    ),
    # Anything else: the first that can hold processes.
    ("/agentwall.slice/job", Candidate("/agentwall.slice/job", OTHER, is_known=False)),
    ("/agentwall.slice/job/a/b", Candidate("/agentwall.slice/job", OTHER, is_known=False)),
    (
        "/agentwall.slice/agentwall-a.slice/run-r1.scope/x",
        unit("/agentwall.slice/agentwall-a.slice/run-r1.scope", "run-r1.scope"),
    ),
    ("/agentwall.slice/agentwall-a.slice", None),
    # A daemon that a runtime keeps beside its containers.
    ("/agentwall.slice/conmon", None),
    (f"/agentwall.slice/libpod-conmon-{ID}.scope", None),
    ("/agentwall.slice/docker.service", None),
]


@pytest.mark.parametrize(("path", "expected"), OWNED)
def test_owned_scope(path, expected):
    """All that is there is a sandbox, but for what only holds others or is part of a runtime."""
    assert candidate_at(owned(), path) == expected


SHARED = [
    (f"/system.slice/docker-{ID}.scope", docker(f"/system.slice/docker-{ID}.scope")),
    (f"/system.slice/docker-{ID}.scope/x/y", docker(f"/system.slice/docker-{ID}.scope")),
    (
        "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
        Candidate(
            "/system.slice/slurmstepd.scope/job_7/step_0/user",
            Origin(runtime=Runtime.SLURM, job="7", step="0"),
        ),
    ),
    ("/system.slice/slurmstepd.scope/job_7/step_0", None),
    ("/system.slice/slurmstepd.scope/job_7/step_0/slurm", None),
    ("/system.slice/sshd.service", None),
    ("/system.slice/docker.service", None),
    ("/system.slice/run-r1.scope", None),
    (f"/system.slice/web.service/{RUN}", None),
    (
        "/system.slice/rollout-7.service/x",
        Candidate(
            "/system.slice/rollout-7.service",
            Origin(runtime=Runtime.SYSTEMD, unit="rollout-7.service"),
        ),
    ),
    ("/system.slice/jobs/one/x", Candidate("/system.slice/jobs/one", OTHER)),
    # Included, and a container in it: the outer one counts.
    (
        f"/system.slice/rollout-7.service/docker-{ID}.scope",
        Candidate(
            "/system.slice/rollout-7.service",
            Origin(runtime=Runtime.SYSTEMD, unit="rollout-7.service"),
        ),
    ),
]


@pytest.mark.parametrize(("path", "expected"), SHARED)
def test_shared_scope(path, expected):
    """Only containers and steps are sandboxes there, and what is included."""
    scope = shared(include=("/system.slice/rollout-*.service", "/system.slice/jobs/*"))

    assert candidate_at(scope, path) == expected


@pytest.mark.parametrize("scope", [owned("/a"), shared("/a", include=("/a/**",))])
def test_exclude_wins(scope):
    """What is excluded is none, in either kind; what is below only if the glob covers that too."""
    globs = ("/a/no-*", "/a/never/**")
    excluding = Scope(
        cgroup=scope.cgroup,
        kind=scope.kind,
        default=scope.default,
        include=scope.include,
        exclude=globs,
    )

    assert candidate_at(scope, "/a/no-1") is not None
    assert candidate_at(excluding, "/a/no-1") is None
    assert candidate_at(excluding, "/a/never") is None
    assert candidate_at(excluding, f"/a/never/docker-{ID}.scope") is None
    assert candidate_at(excluding, "/a/yes") is not None


def test_containers_of_a_pod():
    """In a pod, each container is a sandbox, in either kind of scope; the pod itself is none."""
    path = f"{POD}/cri-containerd-{ID}.scope"
    expected = Candidate(path, Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID))

    for scope in (owned("/kubepods.slice"), shared("/kubepods.slice"), owned(POD)):
        assert candidate_at(scope, path) == expected
        assert candidate_at(scope, POD) is None
        assert candidate_at(scope, f"{POD}/crio-conmon-{ID}.scope") is None


@pytest.mark.parametrize(
    ("origin", "in_shared"),
    [
        (Origin(runtime=Runtime.KUBERNETES, pod="dns", namespace="kube-system"), True),
        (Origin(runtime=Runtime.KUBERNETES, pod="x", name="POD", namespace="default"), True),
        (Origin(runtime=Runtime.KUBERNETES, pod="x", name="app", namespace="default"), False),
        # The name alone, which whoever starts a container chooses, is no way out.
        (Origin(runtime=Runtime.DOCKER, container=ID, name="POD"), False),
        (OTHER, False),
    ],
)
def test_what_the_runtime_told_excludes(origin, in_shared):
    """The cluster's own pods and the holders of pods are no sandboxes of a shared scope."""
    assert is_excluded(shared("/kubepods.slice"), origin) is in_shared
    assert not is_excluded(owned("/kubepods.slice"), origin)


def test_where_to_look():
    """Nothing below a known sandbox is of interest; below anything else something may be."""
    assert can_hold(owned(), "/agentwall.slice/team")
    assert can_hold(shared(), "/system.slice/containerd.service")
    assert not can_hold(owned(), f"/agentwall.slice/{ID}")


def test_which_gives_way():
    """A parent that a runtime made for its containers is not the sandbox, each of them is."""
    outer = candidate_at(owned(), "/agentwall.slice/team")
    inner = candidate_at(owned(), f"/agentwall.slice/team/{ID}")
    beside = candidate_at(owned(), f"/agentwall.slice/teams/{ID}")

    assert outer is not None
    assert inner is not None
    assert beside is not None
    assert gives_way(outer, inner)
    assert not gives_way(outer, beside)
    assert not gives_way(inner, outer)
    assert not gives_way(outer, outer)


def test_a_path_of_any_depth():
    """A sandbox that makes cgroups within one another does not hold the daemon up."""
    scope = shared("/a", include=("/a/**/z",))

    assert candidate_at(owned("/a"), "/a" + "/b" * 1900) == Candidate("/a/b", OTHER, is_known=False)
    assert candidate_at(owned("/a"), "/a" + "/b.slice" * 400) is None
    assert candidate_at(scope, "/a" + "/b" * 1900) is None
    for each, name in ((owned("/a"), "/b"), (owned("/a"), "/b.slice"), (scope, "/b")):
        assert calls_of(each, "/a" + name * 400) == calls_of(each, "/a" + name * 100)


def calls_of(scope: Scope, path: str) -> int:
    """Look at *path* and return how many functions that took."""
    found: list[str] = []
    # A collection meanwhile would count what others have it call: hypothesis does.
    gc.disable()
    sys.setprofile(lambda _frame, event, _of: found.append(event))
    try:
        candidate_at(scope, path)
    finally:
        sys.setprofile(None)
        gc.enable()
    return sum(event in ("call", "c_call") for event in found)


NAMES = st.sampled_from(
    ["a", "a.slice", "b.service", "conmon", ID, f"docker-{ID}.scope", "job_1", "..", "", "x\n"]
)


@given(
    st.sampled_from([owned("/s"), shared("/s"), shared("/s", include=("/s/**/a",))]),
    st.lists(NAMES, max_size=6),
)
def test_whatever_the_path_is(scope, names):
    """A candidate is the path or an ancestor below the scope, and asking about it says the same."""
    path = "/".join(("/s", *names))
    candidate = candidate_at(scope, path)

    if candidate is not None:
        assert candidate.path.startswith("/s/")
        assert (path + "/").startswith(candidate.path + "/")
        again = candidate_at(scope, candidate.path)
        assert again == candidate


def first_candidate(watch: CgroupWatch, scope: Scope) -> Candidate | None:
    """What comes of the first cgroup below *scope* that is a sandbox, within a minute."""
    deadline_s = time.monotonic() + 60
    while select.select([watch], [], [], max(0, deadline_s - time.monotonic()))[0]:
        for seen in watch.read():
            if isinstance(seen, Appeared) and (found := candidate_at(scope, seen.path)):
                return found
    return None


def is_removed(cgroup: Path) -> bool:
    """Remove *cgroup*, once nobody is in it."""
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()


def see_a_real_one(engine: Engine, socket: Path, runtime: Runtime) -> None:
    """Start a container in a scope of either kind, and follow it from its cgroup to its labels."""
    asked = RuntimeDirectory({runtime: str(socket)}, Places(containerd=(), storage=()))
    labels = {"role": "rollout", "episode": "17"}
    with temp_cgroup("scope") as parent:
        for scope in (owned(spelled(parent)), shared(spelled(parent))):
            watch = CgroupWatch([scope.cgroup], descend=lambda path, s=scope: can_hold(s, path))
            with contextlib.closing(watch):
                watch.scan()
                (parent / "conmon").mkdir()
                with engine.sandbox(parent, name="box-7", labels=labels) as container:
                    found = first_candidate(watch, scope)
                    assert found == Candidate(
                        container.cgroup, Origin(runtime=runtime, container=container.id)
                    )
                    answer = asked.ask(found.origin, found.path)
                    (container.directory / f"docker-{ID}.scope").mkdir()
                    assert [each for each in watch.read() if candidate_at(scope, each.path)] == []
                wait_until(lambda: is_removed(parent / "conmon"), what="the end of conmon")

            assert isinstance(answer, Origin)
            assert (answer.name, answer.labels) == ("box-7", labels)
            assert (answer.image or "").removeprefix("localhost/") == IMAGE
            assert not is_excluded(scope, answer)


@pytest.mark.kernel
def test_podman_from_cgroup_to_labels(monkeypatch):
    """A real container of podman is seen, identified and named; what it makes below is not."""
    monkeypatch.setattr(runtime_api, "TIMEOUT_S", 60.0)
    with podman_engine() as engine, podman_service(engine) as socket:
        see_a_real_one(engine, socket, Runtime.PODMAN)


@pytest.mark.kernel
def test_docker_from_cgroup_to_labels(monkeypatch):
    """So is one of a real dockerd."""
    monkeypatch.setattr(runtime_api, "TIMEOUT_S", 60.0)
    with private_dockerd() as engine:
        assert engine.socket is not None
        see_a_real_one(engine, engine.socket, Runtime.DOCKER)
