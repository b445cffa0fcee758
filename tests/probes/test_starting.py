# SPDX-License-Identifier: Apache-2.0
"""The root directory that a container is going to have is known before it has it."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.descriptors import descriptors

from agentwall.probes import starting as module
from agentwall.probes.command import Command
from agentwall.probes.mounts import Mounts
from agentwall.probes.starting import open_container, open_root, root_mount

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["root", "path", "process", "args", "env", "cwd"]), inner)
    ),
    max_leaves=12,
)


@contextmanager
def own_root():
    """The root directory of this process, which is the host's."""
    root = open_root(Mounts(os.getpid()))
    assert root is not None
    try:
        yield root
    finally:
        os.close(root)


def opened(bundle) -> tuple[str, Command | None] | None:
    """Return where the container of *bundle* has its root, and its command."""
    with own_root() as root:
        found = open_container(Mounts(os.getpid()), root, bundle)
        if found is None:
            return None
        path = os.readlink(f"/proc/self/fd/{found[0]}")
        os.close(found[0])
        return path, found[1]


@pytest.fixture
def bundle(tmp_path):
    """A bundle with a root directory in it."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "file").write_text("")
    return tmp_path


def write(bundle, document: object) -> None:
    """Write its configuration."""
    (bundle / "config.json").write_text(json.dumps(document))


def test_root_and_command(bundle):
    """The root as the bundle names it, and what is executed in it, with its variables."""
    process = {
        "args": ["app", "-x"],
        "env": ["PATH=/a:/b", "LD_LIBRARY_PATH=/own", "OTHER=x", "ODD"],
        "cwd": "/work",
    }
    write(bundle, {"root": {"path": "rootfs"}, "process": process})
    relative = opened(bundle)
    write(bundle, {"root": {"path": str(bundle / "rootfs")}})
    absolute = opened(bundle)

    command = Command(program="app", path="/a:/b", library_path="/own", directory="/work")
    assert relative == (str(bundle / "rootfs"), command)
    assert absolute == (str(bundle / "rootfs"), None)


@pytest.mark.parametrize(
    "document",
    [[], {}, {"root": 1}, {"root": {}}, {"root": {"path": "none"}}, {"root": {"path": "file"}}],
)
def test_nothing_said(bundle, document):
    """Where the bundle does not say, the root that the process has counts."""
    write(bundle, document)

    assert opened(bundle) is None


def test_no_configuration(bundle, monkeypatch):
    """Nor where it has no configuration, one too large, or a pipe."""
    missing = opened(bundle)
    write(bundle, {"root": {"path": "rootfs"}})
    monkeypatch.setattr(module, "MAX_CONFIG_BYTES", 8)
    large = opened(bundle)
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")

    assert (missing, large, opened(bundle)) == (None, None, None)


def test_gone_on_already(bundle):
    """Of a process that has another root than the host its own counts, whatever the bundle says."""
    write(bundle, {"root": {"path": "rootfs"}})
    root = os.open(bundle, os.O_PATH)
    found = open_container(Mounts(os.getpid()), root, bundle)
    os.close(root)

    assert found is None


def test_ended():
    """Of a process that has ended there is no root."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

    assert (open_root(Mounts(child)), root_mount(child)) == (None, None)


def test_root_of_a_child():
    """Who has changed no root has that of its parent."""
    with subprocess.Popen(["/bin/sleep", "100"]) as child:
        found = root_mount(child.pid)
        child.kill()

    assert found == root_mount(os.getpid()) is not None


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=150,
)
@given(JSON | st.binary(max_size=40))
def test_any_configuration(bundle, document):
    """Whatever stands in it, it says something or nothing, and nothing stays open."""
    if isinstance(document, bytes):
        (bundle / "config.json").write_bytes(document)
    else:
        write(bundle, document)
    before = descriptors()
    opened(bundle)

    assert descriptors() <= before
