# SPDX-License-Identifier: Apache-2.0
"""One file over another, as a sandbox sees it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from rig.process import wait_until
from rig.shared_mounts import mounts_changed_by

from agentwall.errors import HostError

pytestmark = pytest.mark.kernel

TEXT = "nameserver 192.0.2.53\n"
CHANGE = [
    "echo forged >>{file}",
    "rm -f {file}",
    "mv {file} {file}.old",
    "umount {file}",
    "mount -o remount,rw,bind {file}",
    "unshare -Urm sh -c 'umount {file}'",
    "unshare -Urm sh -c 'mount -o remount,rw,bind {file}'",
]


@pytest.fixture
def host_file(public_path) -> Path:
    """A file of the host's."""
    file = public_path / "resolv.conf"
    file.write_text("nameserver 198.51.100.53\n")
    return file


@pytest.mark.parametrize("user", [None, "nobody"])
@pytest.mark.parametrize("attempt", CHANGE)
def test_covered_file(run_inside, host_file, user, attempt):
    """The sandbox reads the given content, cannot change it, and the host's stays the host's."""
    command = attempt.format(file=host_file)

    _, output = run_inside(
        f"if {command}; then echo DONE; fi; cat {host_file}", user=user, files={host_file: TEXT}
    )

    assert "DONE" not in output
    assert output.endswith(TEXT)
    assert host_file.read_text() == "nameserver 198.51.100.53\n"


def test_link_and_neighbours(run_inside, host_file):
    """A symbolic link is followed, and its target's directory is otherwise as it was."""
    link = host_file.with_name("link")
    link.symlink_to(host_file.name)
    script = f"cat {link}; ls {host_file.parent}"
    (_, output), changed = mounts_changed_by(lambda: run_inside(script, files={link: TEXT}))

    assert output.startswith(TEXT)
    assert "link\n" in output
    assert changed == []


def test_no_file(run_inside, public_path):
    """Where there is no file to cover, nothing starts."""
    with pytest.raises(HostError, match=r"none: expected a file"):
        run_inside("true", files={public_path / "none": TEXT})


def test_host_replaces_the_file(run_inside, host_file, public_path):
    """Where the host puts another file there, the sandbox sees that one: the kernel has it so.

    Nothing opens by it, for the wall refuses servers that are not declared.
    """
    new, ready = public_path / "new", public_path / "ready"
    new.write_text("nameserver 203.0.113.53\n")
    ready.mkdir(mode=0o777)

    def replace() -> None:
        wait_until((ready / "yes").exists, what="the sandbox")
        new.rename(host_file)

    thread = threading.Thread(target=replace)
    thread.start()
    _, output = run_inside(
        f"cat {host_file}; touch {ready}/yes; while [ -e {new} ]; do sleep 0.05; done;"
        f"cat {host_file}",
        files={host_file: TEXT},
    )
    thread.join()

    assert output == f"{TEXT}nameserver 203.0.113.53\n"
