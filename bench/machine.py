# SPDX-License-Identifier: Apache-2.0
"""What the figures were read on: kernel, processor, versions of what was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from bench.ground import run


def describe_machine() -> list[str]:
    """Return one line a fact; nothing that names the host."""
    release = platform.uname()
    return [
        f"kernel: {release.system} {release.release} {release.machine}",
        f"processor: {_cpu_field('model name')}, {os.cpu_count()} cores"
        + (", a virtual machine" if "hypervisor" in _cpu_field("flags").split() else ""),
        f"versions: {run('nft', '--version').split(' (')[0].strip()}, "
        f"{' '.join(run('iperf3', '--version').split()[:2])}, "
        f"dnsmasq {run('dnsmasq', '--version').split()[2]}, "
        f"{run('clang', '--version').splitlines()[0]}",
        f"load average at start: {os.getloadavg()[0]:.2f}",
    ]


def _cpu_field(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
