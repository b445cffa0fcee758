# SPDX-License-Identifier: Apache-2.0
"""An object that differs from the shipped one, and a process that takes it for the shipped one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from agentwall.kernel import abi

ROOT = Path(__file__).parents[2]
# Python imports it before anything else.
_SITE = """
from pathlib import Path
from agentwall.kernel import abi, loading
loading.OBJECT_PATH = Path({path!r})
abi.MAP_LAYOUTS["aw_counters"] = abi.MapLayout(8, {size})
"""


def with_other_counters(directory: Path) -> dict[str, str]:
    """Build, in *directory*, which exists, an object whose counters have one more member.

    Returns:
        The environment of a process that is to load it.
    """
    size = abi.MAP_LAYOUTS["aw_counters"].value_size + 8
    sources, built = directory / "bpf", directory / "other.bpf.o"
    shutil.copytree(ROOT / "bpf", sources)
    header = sources / "abi.h"
    text, members = re.subn(
        r"(struct aw_counters {\n(?:.*\n)*?)(};)", r"\1\t__u64 one_more;\n\2", header.read_text()
    )
    text, sizes = re.subn(r"(sizeof\(struct aw_counters\) ==) \d+", rf"\1 {size}", text)
    if (members, sizes) != (1, 1):
        raise RuntimeError(f"{header}: expected struct aw_counters and its size once")
    header.write_text(text)
    make = ["make", "-s", "-j2", "-C", sources, f"OUT={built}", f"BUILD={directory / 'build'}"]
    subprocess.run(make, check=True)
    site = directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE.format(path=str(built), size=size))
    return {"PYTHONPATH": f"{site}:{ROOT}"}
