# SPDX-License-Identifier: Apache-2.0
"""Where the real OpenSSL is probed, each way to say and to hear something is seen, once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rig import in_cgroup, temp_cgroup
from rig.probed import file_id
from rig.probing import HEAR, SAY, probing

from agentwall.flow.tls import TlsLibrary
from agentwall.probes import compiling
from agentwall.probes.attached import Attached
from agentwall.probes.elf import read_elf
from agentwall.probes.libraries import WANTED

WHY_NOT = compiling.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]


@pytest.fixture
def caller(tmp_path):
    """A program, and the copy of OpenSSL that it is told to load."""
    program = tmp_path / "caller"
    source = Path(__file__).with_name("openssl_caller.c")
    subprocess.run(["gcc", "-O1", "-o", program, source, "-lssl", "-lcrypto"], check=True)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    (path,) = (line.split()[2] for line in listed.splitlines() if "libssl" in line)
    return program, Path(shutil.copy(path, tmp_path))


def test_each_way_is_seen_once(caller, tmp_path):
    """The function, its sibling that reports sizes, and the BIO: text and direction are right."""
    program, library = caller
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    with probing(tmp_path) as ground, temp_cgroup() as cgroup:
        ground.admit(cgroup, 7)
        attached = Attached(ground.programs.fds, max_libraries=1, pins=None)
        fd = os.open(library, os.O_RDONLY)
        try:
            offsets = read_elf(fd, WANTED).offsets
            path, file = str(library), file_id(library)
            attached.use(file, fd, TlsLibrary.OPENSSL, offsets, "test", path, 0.0)
            subprocess.run(in_cgroup(cgroup, program), env=environment, check=True, timeout=60)
            seen = [each for each in ground.take() if each.act in (SAY, HEAR)]
        finally:
            os.close(fd)
            attached.close()
        counted = ground.counters()

    words = (b"plain", b"extended", b"through")
    wanted = [(act, word) for word in words for act in (SAY, HEAR)]
    assert [(each.act, each.text) for each in seen] == wanted
    assert {each.sandbox for each in seen} == {7}
    assert (counted["doubled"], counted["lost"], counted["unreadable"]) == (0, 0, 0)
