# SPDX-License-Identifier: Apache-2.0
"""The Debian package of this tree, built once for all tests of a run."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from rig.tree import ROOT


class NotBuiltError(Exception):
    """It cannot be built on this machine as it is; the message says why."""


@functools.cache
def built_deb() -> Path:
    """Build the package below build/ and return where it is.

    Raises:
        NotBuiltError: There is no dpkg, or wheels would have to be fetched and must not be.
        RuntimeError: The build failed; the message is what it said.
    """
    if shutil.which("dpkg-deb") is None:
        raise NotBuiltError("dpkg-deb is not here")
    out = ROOT / "build" / "test-deb"
    shutil.rmtree(out, ignore_errors=True)
    command = [ROOT / "tools/deb.sh", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "AGENTWALL_NO_INSTALL=1 is set" in done.stderr:
        raise NotBuiltError("AGENTWALL_NO_INSTALL=1 and no wheelhouse: would fetch wheels")
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    (built,) = out.glob("*.deb")
    return built
