# SPDX-License-Identifier: Apache-2.0
"""What the paths of cgroups say: one row for each form that a runtime uses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.flow.origin import Origin, Runtime
from agentwall.host.cgroup_names import Found, Standing, identify

ID = "1f2e3d4c5b6a79880f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"
OTHER_ID = "ab" * 32
UID = "83b090de-9676-407c-99aa-d33dc6aa0c0d"
UID_ = UID.replace("-", "_")
STATIC = "6fc4a17a9b0a4ab4833e7004a16f89ce"
USER = "/user.slice/user-1000.slice/user@1000.service"
PODS = "/kubepods.slice/kubepods-burstable.slice"
POD = f"{PODS}/kubepods-burstable-pod{UID_}.slice"
KIND = f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice"
STEP = "/system.slice/slurmstepd.scope/job_42/step_0"
BUILD = "u9jvcs1kl5z4qk7k0n9b2xq3a"

# The cgroup of the sandbox, what is below it in the path, and what is known of it.
SANDBOXES = [
    # Docker: systemd and cgroupfs driver, rootless, a parent of one's own.
    (f"/system.slice/docker-{ID}.scope", "", Origin(runtime=Runtime.DOCKER, container=ID)),
    (f"/docker/{ID}", "", Origin(runtime=Runtime.DOCKER, container=ID)),
    (f"/docker/{ID}", "/init.scope", Origin(runtime=Runtime.DOCKER, container=ID)),
    (
        f"{USER}/user.slice/docker-{ID}.scope",
        "",
        Origin(runtime=Runtime.DOCKER, container=ID),
    ),
    (f"{USER}/app.slice/docker-{ID}.scope", "", Origin(runtime=Runtime.DOCKER, container=ID)),
    (f"/agentwall.slice/{ID}", "", Origin(runtime=Runtime.DOCKER, container=ID)),
    (f"/a.slice/a-b.slice/docker-{ID}.scope", "", Origin(runtime=Runtime.DOCKER, container=ID)),
    # Docker in Docker, and the node of a kind cluster: all is the outer container's.
    (f"/docker/{ID}", f"/docker/{OTHER_ID}", Origin(runtime=Runtime.DOCKER, container=ID)),
    (f"/system.slice/docker-{ID}.scope", KIND, Origin(runtime=Runtime.DOCKER, container=ID)),
    # BuildKit: a builder that is a container, and the one inside dockerd.
    (
        f"/docker/buildx/{ID}",
        f"/buildkit/{BUILD}",
        Origin(runtime=Runtime.BUILDKIT, container=ID),
    ),
    (f"/docker/buildkit/{BUILD}", "", Origin(runtime=Runtime.BUILDKIT, container=BUILD)),
    (
        f"/system.slice/docker-{BUILD}.scope",
        "",
        Origin(runtime=Runtime.BUILDKIT, container=BUILD),
    ),
    # containerd through ctr and nerdctl.
    (f"/default/{ID}", "", Origin(runtime=Runtime.CONTAINERD, container=ID)),
    ("/default/my-job.1", "", Origin(runtime=Runtime.CONTAINERD, container="my-job.1")),
    (f"/system.slice/nerdctl-{ID}.scope", "", Origin(runtime=Runtime.CONTAINERD, container=ID)),
    # podman: root, rootless, cgroupfs, in a pod, below a unit ("--cgroups=split").
    (
        f"/machine.slice/libpod-{ID}.scope",
        "/container",
        Origin(runtime=Runtime.PODMAN, container=ID),
    ),
    (
        f"{USER}/user.slice/libpod-{ID}.scope",
        "/container/init.scope",
        Origin(runtime=Runtime.PODMAN, container=ID),
    ),
    (f"/libpod_parent/libpod-{ID}", "", Origin(runtime=Runtime.PODMAN, container=ID)),
    (f"/libpod_parent/{OTHER_ID}/libpod-{ID}", "", Origin(runtime=Runtime.PODMAN, container=ID)),
    (
        f"/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope",
        "/container",
        Origin(runtime=Runtime.PODMAN, container=ID),
    ),
    (f"/agentwall.slice/libpod-{ID}", "", Origin(runtime=Runtime.PODMAN, container=ID)),
    (
        f"/system.slice/web.service/libpod-payload-{ID}",
        "",
        Origin(runtime=Runtime.PODMAN, container=ID, unit="web.service"),
    ),
    # Kubernetes: containerd, CRI-O and cri-dockerd, as slices and as directories.
    (
        f"{POD}/cri-containerd-{ID}.scope",
        "",
        Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID),
    ),
    (
        f"{POD}/crio-{ID}.scope",
        "/container",
        Origin(runtime=Runtime.CRI_O, container=ID, pod=UID),
    ),
    (f"{POD}/docker-{ID}.scope", "", Origin(runtime=Runtime.DOCKER, container=ID, pod=UID)),
    (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        "",
        Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID),
    ),
    (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{STATIC}.slice"
        f"/crio-{ID}.scope",
        "",
        Origin(runtime=Runtime.CRI_O, container=ID, pod=STATIC),
    ),
    (
        f"/kubepods/burstable/pod{UID}/{ID}",
        "",
        Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID),
    ),
    (f"/kubepods/pod{UID}/{ID}", "/x", Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID)),
    (
        f"/kubepods/besteffort/pod{UID}/crio-{ID}",
        "",
        Origin(runtime=Runtime.CRI_O, container=ID, pod=UID),
    ),
    (f"{POD}/sidecar", "", Origin(runtime=Runtime.KUBERNETES, pod=UID)),
    (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
        "",
        Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID),
    ),
    # kind and k3d, seen from inside the node.
    (
        f"{KIND}/cri-containerd-{ID}.scope",
        "",
        Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID),
    ),
    # Kata.
    (f"{POD}/cri-containerd-{ID}", "", Origin(runtime=Runtime.KATA, container=ID, pod=UID)),
    (f"/kubepods/pod{UID}/kata_{ID}", "", Origin(runtime=Runtime.KATA, container=ID, pod=UID)),
    (f"/kata_overhead/{ID}", "", Origin(runtime=Runtime.KATA, container=ID)),
    (
        f"/kata_overhead/kubepods/pod{UID}/{ID}",
        "",
        Origin(runtime=Runtime.KATA, container=ID, pod=UID),
    ),
    # Firecracker's jailer.
    ("/firecracker/vm-17", "", Origin(runtime=Runtime.FIRECRACKER, container="vm-17")),
    (
        "/firecracker-v1.7.0-x86_64/551e7604-e35c-42b3-b825-416853441234",
        "",
        Origin(runtime=Runtime.FIRECRACKER, container="551e7604-e35c-42b3-b825-416853441234"),
    ),
    # Slurm, both versions of cgroups.
    (f"{STEP}/user", "/task_0", Origin(runtime=Runtime.SLURM, job="42", step="0")),
    (
        "/system.slice/node-7_slurmstepd.scope/job_42/step_batch/user",
        "/task_special",
        Origin(runtime=Runtime.SLURM, job="42", step="batch"),
    ),
    (
        "/slurm/uid_1001/job_42/step_extern",
        "/task_0",
        Origin(runtime=Runtime.SLURM, job="42", step="extern"),
    ),
    ("/slurm_n7/uid_1001/job_42/step_0", "", Origin(runtime=Runtime.SLURM, job="42", step="0")),
    # Machines.
    (
        "/machine.slice/machine-my\\x2dbox.scope",
        "/payload",
        Origin(
            runtime=Runtime.NSPAWN,
            container="my-box",
            name="my-box",
            unit="machine-my\\x2dbox.scope",
        ),
    ),
    (
        "/machine.slice/systemd-nspawn@box.service/payload",
        "/init.scope",
        Origin(
            runtime=Runtime.NSPAWN, container="box", name="box", unit="systemd-nspawn@box.service"
        ),
    ),
    ("/lxc.payload.web1", "/ns", Origin(runtime=Runtime.LXC, container="web1", name="web1")),
    ("/lxc/101", "/ns", Origin(runtime=Runtime.LXC, container="101", name="101")),
    # Jobs of a GitHub runner, and our own.
    (f"/actions_job/{ID}", "", Origin(runtime=Runtime.ACTIONS, container=ID)),
    (
        "/agentwall.slice/agentwall-20260731T101112Z-0a1b2c",
        "/x",
        Origin(runtime=Runtime.AGENTWALL, container="20260731T101112Z-0a1b2c"),
    ),
]

UNITS = [
    ("/system.slice/run-r12.service", "", "run-r12.service"),
    ("/system.slice/run-u3.scope", "/child", "run-u3.scope"),
    (f"{USER}/app.slice/run-rab.scope", "", "run-rab.scope"),
    ("/agentwall.slice/rollout@7.service", "/a/b", "rollout@7.service"),
    # A virtual machine: the hooks see its monitor only.
    ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", "", "machine-qemu\\x2d1\\x2dvm.scope"),
]

EXCLUDED = [
    f"/machine.slice/libpod-conmon-{ID}.scope",
    f"{POD}/crio-conmon-{ID}.scope",
    f"/libpod_parent/libpod-conmon-{ID}",
    "/libpod_parent/conmon",
    "/agentwall.slice/conmon",
    "/system.slice/web.service/runtime",
    "/system.slice/docker.service",
    "/system.slice/containerd.service",
    "/system.slice/containerd.service/shim",
    "/system.slice/kubelet.service",
    "/init.scope",
    f"{USER}/init.scope",
    "/system.slice/slurmd.service",
    f"{STEP}/slurm",
    "/system.slice/slurmstepd.scope/system",
    "/machine.slice/systemd-nspawn@box.service/supervisor",
    "/lxc.monitor.web1",
    "/lxc.pivot",
]

HOLDERS = [
    "/system.slice",
    "/agentwall.slice",
    "/machine.slice",
    "/a.slice/a-b.slice",
    USER,
    "/docker",
    "/docker/buildx",
    "/docker/buildkit",
    "/default",
    "/libpod_parent",
    f"/libpod_parent/{ID}",
    PODS,
    POD,
    KIND,
    "/kubepods",
    "/kubepods/burstable",
    f"/kubepods/burstable/pod{UID}",
    "/kata_overhead",
    "/firecracker",
    "/system.slice/slurmstepd.scope",
    "/system.slice/slurmstepd.scope/job_42",
    STEP,
    "/slurm",
    "/slurm/uid_1001",
    "/slurm/uid_1001/job_42",
    "/machine.slice/systemd-nspawn@box.service",
    "/lxc",
    "/actions_job",
]

UNKNOWN = [
    "/",
    "",
    "relative",
    "//",
    "/a",
    "/a/b/c",
    "/job_1/step_0/user",
    f"/a/docker-{ID[:-1]}.scope",
    f"/a/docker-{ID.upper()}.scope",
    f"/a/docker-{ID}.scope (deleted)",
    # Names somebody made up to be taken for another.
    f"/a/docker-{ID}.scope\n",
    f"/docker/{ID}\n/x",
    f"/docker/../docker/{ID}",
    f"/docker/./{ID}",
    f"/docker//{ID}",
    f"/docker/{ID}/",
    f"/docker/{ID}/\x1b[31m",
    f"/docker/{ID}/\udcff",
    f"/docker/{ID}/\u2028",
    "/" + "a" * 4096,
    f"/docker/{ID}" + "/a" * 2048,
    "/default/--privileged",
    "/default/" + "a" * 77,
    "/firecracker/a b",
    "/lxc.payload.a b",
]


@pytest.mark.parametrize(("cgroup", "rest", "origin"), SANDBOXES)
def test_sandbox(cgroup, rest, origin):
    """The sandbox's own cgroup and its origin are read off the path, from any cgroup within."""
    assert identify(cgroup + rest) == Found(standing=Standing.SANDBOX, cgroup=cgroup, origin=origin)


@pytest.mark.parametrize(("cgroup", "rest", "unit"), UNITS)
def test_unit(cgroup, rest, unit):
    """A service or scope of systemd is one wherever it is."""
    assert identify(cgroup + rest) == Found(
        standing=Standing.UNIT, cgroup=cgroup, origin=Origin(runtime=Runtime.SYSTEMD, unit=unit)
    )


@pytest.mark.parametrize(
    ("paths", "standing"),
    [
        (EXCLUDED, Standing.EXCLUDED),
        (HOLDERS, Standing.HOLDER),
        (UNKNOWN, Standing.UNKNOWN),
    ],
    ids=["excluded", "holders", "unknown"],
)
def test_what_is_no_sandbox(paths, standing):
    """Parts of runtimes, what only holds others, and what nothing is known of."""
    expected = Found(standing=standing)

    assert [path for path in paths if identify(path) != expected] == []


def test_only_what_is_below_a_scope_counts():
    """Inside a container that is itself a host, its own containers are the sandboxes."""
    node = f"/system.slice/docker-{OTHER_ID}.scope"
    pods = f"{node}{KIND}"
    expected = Origin(runtime=Runtime.KUBERNETES, container=ID, pod=UID)

    assert identify(f"{pods}/cri-containerd-{ID}.scope", below=node).origin == expected
    assert identify(f"{pods}/cri-containerd-{ID}.scope", below=pods).origin == expected
    assert identify(node, below=node) == Found(standing=Standing.UNKNOWN)
    assert identify("/elsewhere/x", below=node) == Found(standing=Standing.UNKNOWN)
    assert identify(f"{node}x/docker-{ID}.scope", below=node) == Found(standing=Standing.UNKNOWN)


def test_a_path_of_any_depth():
    """What is within one another beyond all reason is no sandbox, and is told in the end."""
    # One that tried every way would not.
    assert identify("/a.slice" * 20 + f"/{ID}").standing is Standing.SANDBOX
    assert identify("/a.slice" * 40 + f"/{ID}").standing is Standing.HOLDER
    assert identify("/a" * 2000).standing is Standing.UNKNOWN
    assert identify(f"/{ID}" + "/a" * 1900).cgroup == f"/{ID}"


PARTS = sorted(
    {
        name
        for path in [*(cgroup + rest for cgroup, rest, _ in SANDBOXES), *EXCLUDED, *HOLDERS]
        for name in path.split("/")
    }
)


@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=20)), max_size=9).map("/".join),
        st.lists(st.sampled_from(PARTS), max_size=9).map(lambda names: "/" + "/".join(names)),
    )
)
def test_whatever_the_path_is(path):
    """It never raises, and a sandbox's cgroup is the path or an ancestor of it, never the root."""
    found = identify(path)

    assert (found.origin is None) == (found.cgroup == "")
    if found.cgroup:
        assert re.fullmatch(r"(/[^/\n]+)+", found.cgroup)
        assert (path + "/").startswith(found.cgroup + "/")
        assert identify(found.cgroup) == found
