# SPDX-License-Identifier: Apache-2.0
"""What one ``agentwall run`` has compiled, the next one has."""

from __future__ import annotations

import subprocess

import pytest
from rig.cli import TIMEOUT_S, agentwall, environment

from agentwall.host.kept_files import SYSTEM_CACHE
from agentwall.probes import compiling

WHY_NOT = compiling.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]


def test_compiled_once(tmp_path):
    """A second run reads inside TLS where the compiler that the first one had is gone."""
    policy = tmp_path / "p.yaml"
    policy.write_text("version: 1\nname: p\n")
    # In a mount namespace, with an empty cache, and bcc hidden between the two.
    script = (
        f"mkdir -p {SYSTEM_CACHE} && mount -t tmpfs -o mode=0700 none {SYSTEM_CACHE} && "
        '"$0" "$@" && mount -t tmpfs none /usr/lib/python3/dist-packages && exec "$0" "$@"'
    )
    words = ("--tls", "require", "-p", policy, "--events", "/dev/null", "--", "echo", "run")
    shell = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
    done = subprocess.run(
        [*shell, *agentwall("run", *words)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "run\nrun\n"), done.stderr
