# SPDX-License-Identifier: Apache-2.0
"""The Debian package: built, installed by the real dpkg over a throw-away root, run and removed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.containers import spelled
from rig.overlay import ENVIRONMENT, NoOverlayError, Overlay, overlay
from rig.package import NotBuiltError, built_deb
from rig.tree import ROOT
from rig.unit import accept_its_terms, with_its_capabilities

from agentwall import __version__

pytestmark = pytest.mark.slow

COMMANDS = ("agentwall", "agentwall-hook", "agentwall-runc")


@pytest.fixture(scope="module")
def deb() -> Path:
    """The package, built from this tree."""
    try:
        return built_deb()
    except NotBuiltError as err:
        pytest.skip(str(err))


@pytest.fixture(scope="module")
def unpacked(deb, tmp_path_factory) -> Path:
    """What is in the package, maintainer scripts below DEBIAN."""
    tree = tmp_path_factory.mktemp("unpacked") / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(tree)], check=True)
    return tree


@pytest.fixture
def host() -> Overlay:
    """A root file system of this machine's that the package can be installed into."""
    try:
        with overlay() as found:
            yield found
    except NoOverlayError as err:
        pytest.skip(f"no overlay: {err}")


def install(host: Overlay, deb: Path) -> str:
    host.write("/agentwall.deb", deb.read_bytes())
    done = host.run("dpkg", "--install", "/agentwall.deb")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_control(deb, unpacked):
    """Name, version and architecture are right, and the version of Python is bounded."""
    arch = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    lines = (unpacked / "DEBIAN/control").read_text().splitlines()
    fields = dict(line.split(": ", 1) for line in lines if not line.startswith(" "))

    assert deb.name == f"agentwall_{__version__}_{arch}.deb"
    assert fields["Package"] == "agentwall"
    assert (fields["Version"], fields["Architecture"]) == (__version__, arch)
    assert "python3 (>= 3." in fields["Depends"]
    assert "python3 (<< 3." in fields["Depends"]
    assert "libbpf1" in fields["Depends"].split(", ")
    assert fields["Recommends"] == "python3-bpfcc"


def test_contents(unpacked):
    """Everybody may read every file, root alone write it; sums and conffiles agree."""
    files = [path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()]
    shipped = [path for path in files if "DEBIAN" not in path.parts]
    conffiles = {
        f"/{path.relative_to(unpacked)}" for path in shipped if unpacked / "etc" in path.parents
    }
    sums = dict(
        reversed(line.split("  ", 1))
        for line in (unpacked / "DEBIAN/md5sums").read_text().splitlines()
    )

    assert {"/etc/agentwall/agentwall.yaml", "/etc/agentwall/policies/README"} == conffiles
    assert set((unpacked / "DEBIAN/conffiles").read_text().split()) == conffiles
    for path in shipped:
        mode = path.stat().st_mode & 0o7777
        assert mode in (0o644, 0o755), path
        name = str(path.relative_to(unpacked))
        if not name.startswith("etc/"):
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            assert sums.pop(name) == digest, name
    assert sums == {}


def test_no_trace_of_the_build(unpacked):
    """No file names the directory that it was built in."""
    traces = [
        path
        for path in unpacked.rglob("*")
        if path.is_file() and not path.is_symlink() and os.fsencode(f"{ROOT}/") in path.read_bytes()
    ]

    assert traces == []


def test_carries_what_the_tree_has(unpacked):
    """The object, the policies, the documents and the examples are those of the tree."""
    (package,) = unpacked.glob("usr/lib/agentwall/lib/python3*/site-packages/agentwall")
    examples = unpacked / "usr/share/doc/agentwall/examples"

    assert list((package / "_policies").rglob("*.yaml"))
    assert (package / "_bpf/agentwall.bpf.o").stat().st_size > 100_000
    assert (examples / "daemon.json.example").read_text() == (
        ROOT / "deploy/daemon.json.example"
    ).read_text()
    assert {path.name for path in (examples / "hooks.d").iterdir()} == {
        path.name for path in (ROOT / "deploy/hooks.d").iterdir()
    }
    packages = (examples.parent / "python-packages.txt").read_text()
    assert {"agentwall", "click", "pydantic"} <= {line.split()[0] for line in packages.splitlines()}


def test_installed(host, deb):
    """Installed it runs, starts nothing, and writes nothing beside what was installed."""
    said = install(host, deb)
    version = host.run("agentwall", "--version")
    doctor = host.run("agentwall", "doctor")
    hook = host.run("agentwall-hook", text="{}")
    policy = host.run("sh", "-c", "agentwall policy check $(dpkg -L agentwall | grep deny.yaml)")
    units = host.run(
        "sh", "-c", "command -v systemd-analyze || exit 0; systemd-analyze verify --man=no "
        "agentwall.service agentwall.socket agentwall.slice"
    )  # fmt: skip
    strays = host.run("find", "/usr/lib/agentwall", "-newer", "/var/lib/dpkg/status")

    assert "nothing was started" in said
    assert (version.returncode, version.stdout) == (0, f"agentwall {__version__}\n")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert (hook.returncode, "ociVersion" in hook.stderr) == (2, True), hook.stderr
    assert policy.returncode == 0, policy.stderr
    assert (units.returncode, units.stderr) == (0, "")
    assert strays.stdout == ""


def test_upgrade(host, deb):
    """Installed once more it says how the new daemon takes over, and keeps the configuration."""
    install(host, deb)
    host.write("/etc/agentwall/agentwall.yaml", b"version: 1\nwatch: false\n")
    said = install(host, deb)

    assert "systemctl restart agentwall.service" in said
    assert "watch: false" in host.run("cat", "/etc/agentwall/agentwall.yaml").stdout


def test_removal(host, deb):
    """Removal leaves configuration and wall, and says so; purging leaves the evidence."""
    install(host, deb)
    host.run("mkdir", "-p", "/run/agentwall/bpf/daemon", "/var/log/agentwall")
    removed = host.run("dpkg", "--remove", "agentwall")
    left = host.run("find", "/usr/lib/agentwall", "/usr/bin/agentwall", "/etc/agentwall")
    purged = host.run("dpkg", "--purge", "agentwall")
    pins = host.run("ls", "-d", "/run/agentwall/bpf/daemon", "/var/log/agentwall")

    assert (removed.returncode, purged.returncode) == (0, 0), removed.stderr + purged.stderr
    assert "the wall stands as it is" in removed.stderr
    assert "they are evidence" in purged.stdout
    assert left.stdout.split() == [
        "/etc/agentwall",
        "/etc/agentwall/agentwall.yaml",
        "/etc/agentwall/policies",
        "/etc/agentwall/policies/README",
    ]
    assert host.run("ls", "/etc/agentwall").returncode != 0
    assert pins.returncode == 0


def test_commands_are_those_of_the_project(unpacked):
    """Each command of pyproject.toml is there, for the package's own interpreter."""
    for name in COMMANDS:
        link = unpacked / "usr/bin" / name
        target = unpacked / "usr/lib/agentwall/bin" / name

        assert link.is_symlink()
        assert link.resolve() == target.resolve()
        assert target.read_text().startswith("#!/usr/lib/agentwall/bin/python3 -I\n")


def test_daemon_on_the_terms_of_the_unit(host, deb, tmp_path):
    """As systemd starts it, with the unit's rights only, the daemon serves and says how it is."""
    install(host, deb)
    with temp_cgroup("scope") as scope, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        # An abstract one: the daemon has another root.
        manager.bind(f"\0agentwall-test-{os.getpid()}")
        manager.settimeout(60)
        config = f"version: 1\nscopes: [{{cgroup: {spelled(scope)}, kind: owned}}]\n"
        host.write("/etc/agentwall/agentwall.yaml", config.encode())
        variables = {
            "NOTIFY_SOCKET": f"@agentwall-test-{os.getpid()}",
            # It beats twice as often: a socket that is not read holds ten messages, and no more.
            "WATCHDOG_USEC": "20000000",
        }
        with (tmp_path / "log").open("wb") as log:
            daemon = subprocess.Popen(
                host.command(*with_its_capabilities("/usr/bin/agentwall", "daemon")),
                env=ENVIRONMENT | variables,
                preexec_fn=accept_its_terms,
                stderr=log,
            )
        try:
            said = [until(manager, "READY=1"), until(manager, "WATCHDOG=1")]
            status = host.run("agentwall", "status")
            daemon.send_signal(signal.SIGHUP)
            said += [until(manager, "RELOADING=1"), until(manager, "READY=1")]
            daemon.terminate()
            said.append(until(manager, "STOPPING=1"))
            code = daemon.wait(60)
        finally:
            daemon.kill()
            daemon.wait()
        links = host.run("ls", "/run/agentwall/bpf/daemon/links").stdout
        gone = host.run("agentwall", "daemon", "--detach")

    assert all(said), (tmp_path / "log").read_text()
    assert (status.returncode, code) == (0, 0), (tmp_path / "log").read_text()
    assert "aw_connect4" in links
    assert gone.returncode == 0, gone.stderr


def until(manager: socket.socket, line: str) -> bool:
    """Wait for a message with a line; False if none comes, whatever else does."""
    deadline_s = time.monotonic() + 60
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < deadline_s:
            if line in manager.recv(4096).decode().splitlines():
                return True
    return False
