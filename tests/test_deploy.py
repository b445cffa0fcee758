# SPDX-License-Identifier: Apache-2.0
"""What is in deploy/ is what systemd, container runtimes, Kubernetes and agentwall itself take."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import kubernetes_validate
import pytest
import yaml
from rig.bcc_trial import SCRIPT
from rig.cli import agentwall, environment
from rig.tree import ROOT
from rig.unit import accept_its_terms, directives, with_its_capabilities

from agentwall import __version__
from agentwall.daemon.config import CONFIG, CONTROL_SOCKET, Config
from agentwall.daemon.config_load import parse_config
from agentwall.kernel.pins import BPFFS
from agentwall.policy.load import load_policy

DEPLOY = ROOT / "deploy"
UNITS = ("agentwall.service", "agentwall.socket", "agentwall.slice")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# systemd.exec(5), "Sandboxing" and "Paths": with any of these the service gets a mount namespace.
OF_A_MOUNT_NAMESPACE = {
    *("BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionImages"),
    *("InaccessiblePaths", "MountAPIVFS", "MountFlags", "MountImages", "NoExecPaths"),
    *("PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateTmp", "ProcSubset"),
    *("ProtectControlGroups", "ProtectHome", "ProtectKernelLogs", "ProtectKernelModules"),
    *("ProtectKernelTunables", "ProtectProc", "ProtectSystem", "ReadOnlyPaths"),
    *("ReadWritePaths", "RootDirectory", "RootImage", "TemporaryFileSystem"),
}
# /dev/vsock has to be seen, see docs/deploy.md.
HIDING_DEVICES = {"DeviceAllow", "DevicePolicy", "ProtectClock"}


needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)


@needs_systemd_analyze
def test_units_are_valid(tmp_path):
    """systemd takes the units without a remark."""
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        # Only the program is not where it is going to be.
        (tmp_path / name).write_text(text.replace("/usr/bin/agentwall", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd_analyze
def test_exposure():
    """The unit is rated no worse than the document says."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(DEPLOY / UNITS[0])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": ""},
    )
    rated = re.search(r"Overall exposure level for agentwall.service: ([0-9.]+)", done.stdout)
    said = re.search(r"rates the unit ([0-9.]+) ", (ROOT / "docs/deploy.md").read_text())

    assert rated, done.stderr
    assert said
    assert float(rated[1]) <= float(said[1])


def test_service_needs_no_mount_namespace():
    """Nothing in the unit makes one: the pins would be in it, and the wall would end with it."""
    found = directives("agentwall.service")

    assert found.keys() & OF_A_MOUNT_NAMESPACE == set()
    assert found.keys() & HIDING_DEVICES == set()
    assert found["RuntimeDirectoryPreserve"] == ["yes"]
    assert f"/run/{found['RuntimeDirectory'][0]}" == str(BPFFS.parent) == str(CONTROL_SOCKET.parent)


def test_service_is_in_no_owned_scope():
    """The daemon does not live where sandboxes do."""
    (scope,) = Config().scopes

    assert directives("agentwall.service")["Slice"] == ["system.slice"]
    assert f"/{UNITS[2]}" == scope.cgroup
    assert directives("agentwall.socket")["ListenStream"] == [str(Config().control.socket)]


def test_service_directives_are_explained():
    """The document says why of each directive that hardens the service."""
    explained = (ROOT / "docs/deploy.md").read_text()
    hardening = re.split("# Nothing here may need", (DEPLOY / UNITS[0]).read_text())[1]
    keys = set(re.findall(r"^([A-Z][A-Za-z]+)=", hardening, re.MULTILINE)) - {"WantedBy"}

    assert len(keys) > 10
    assert {key for key in keys if f"`{key}" not in explained} == set()


@pytest.mark.kernel
def test_service_rights_suffice():
    """The wall can be loaded with the unit's capabilities, and without writable code."""
    if os.geteuid() != 0 or shutil.which("capsh") is None:
        pytest.skip("needs root and capsh")
    done = subprocess.run(
        with_its_capabilities(*agentwall("doctor", "--format", "json")),
        env=environment(),
        preexec_fn=accept_its_terms,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.kernel
def test_service_can_read_inside_tls():
    """What bcc makes is no writable code, and the unit's rights suffice for probes, too."""
    if os.geteuid() != 0 or shutil.which("capsh") is None:
        pytest.skip("needs root and capsh")
    done = subprocess.run(
        with_its_capabilities(sys.executable, "-c", SCRIPT),
        env=environment(),
        preexec_fn=accept_its_terms,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_service_may_open_perf_events():
    """Neither the filter of system calls nor the capabilities keep probes from being attached."""
    found = directives("agentwall.service")
    refused = " ".join(found["SystemCallFilter"])
    kept = " ".join(found["CapabilityBoundingSet"]).split()

    assert refused.startswith("~")
    assert "@debug" not in refused
    assert "perf_event_open" not in refused
    # PERFMON opens them, SYS_PTRACE and SYS_ADMIN follow /proc/PID/root and map_files.
    assert {"CAP_PERFMON", "CAP_BPF", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"} <= set(kept)


def test_default_configuration():
    """The package's configuration says the defaults, and what it suggests is valid, too."""
    text = (DEPLOY / CONFIG.name).read_text()
    suggested = re.sub(r"^#(?=[a-z]+:| )(?! [A-Z])", "", text, flags=re.MULTILINE)
    suggested = re.sub(r"^ [a-z].*\n", "", suggested, flags=re.MULTILINE)

    assert parse_config(text.encode(), "x") == Config(files=("x",))
    assert len(parse_config(suggested.encode(), "x").scopes) == 4
    assert parse_config(suggested.encode(), "x").metrics


@pytest.mark.parametrize("path", sorted((DEPLOY / "hooks.d").glob("*.json")), ids=lambda p: p.name)
def test_hooks(path):
    """The hooks are of version 1.0.0 of oci-hooks(5), and our hook takes their arguments."""
    content = json.loads(path.read_text())
    hook = content["hook"]
    done = subprocess.run(
        [sys.executable, "-m", "agentwall.cli.admission", *hook["args"][1:]],
        input="{}",
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert content.keys() == {"version", "hook", "when", "stages"}
    assert content["version"] == "1.0.0"
    assert content["when"] == {"always": True}
    assert content["stages"] == (["poststop"] if "--release" in hook["args"] else ["createRuntime"])
    assert hook["path"] == f"/usr/bin/{hook['args'][0]}"
    assert hook["args"][0] in PROJECT["scripts"]
    assert hook["timeout"] > 10
    # It gets as far as to read the state, which is none.
    assert "state: " in done.stderr


def test_docker_runtime():
    """The runtime of dockerd's configuration is a command of the project."""
    (runtime,) = json.loads((DEPLOY / "daemon.json.example").read_text())["runtimes"].values()

    assert runtime["path"].removeprefix("/usr/bin/") in PROJECT["scripts"]


@pytest.fixture(scope="module")
def manifest() -> dict[str, list[dict]]:
    """The documents of the manifest by kind."""
    found: dict[str, list[dict]] = {}
    for each in yaml.safe_load_all((DEPLOY / "kubernetes/daemonset.yaml").read_text()):
        found.setdefault(each["kind"], []).append(each)
    return found


def test_manifest_is_valid(manifest):
    """Every document is what the API of Kubernetes takes, and nothing beside it."""
    version = kubernetes_validate.latest_version()
    for document in (each for kind in manifest.values() for each in kind):
        assert kubernetes_validate.validate(document, version, strict=True)


def test_manifest_configuration(manifest, tmp_path):
    """The configuration and the policies in the manifest load."""
    config, policies = (each["data"] for each in manifest["ConfigMap"])
    loaded = parse_config(config["agentwall.yaml"].encode(), "x")
    for name, text in policies.items():
        (tmp_path / name).write_text(text)

        assert load_policy(tmp_path / name).allow
    assert loaded.scopes
    assert loaded.policies == Config().policies


def test_manifest_agrees_with_the_daemon(manifest):
    """The pod has every directory that the daemon uses, and its bpffs on the node."""
    pod = manifest["DaemonSet"][0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    defaults = Config()

    assert container["image"].endswith(f":{__version__}")
    assert {each["name"] for each in mounts.values()} == {each["name"] for each in pod["volumes"]}
    assert mounts[str(BPFFS.parent)]["mountPropagation"] == "Bidirectional"
    assert container["securityContext"]["privileged"]
    assert (pod["hostPID"], pod["hostNetwork"]) == (True, True)
    for path in (defaults.log.path, defaults.state, defaults.policies, defaults.response.snapshots):
        assert any(path.is_relative_to(mount) for mount in mounts), path
    for name in ("args", "livenessProbe", "startupProbe"):
        words = container[name] if name == "args" else container[name]["exec"]["command"]
        assert words[0] in ("daemon", "/usr/bin/agentwall")
