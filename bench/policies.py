# SPDX-License-Identifier: Apache-2.0
"""The policies that are measured: what the probe needs, and as much else as is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS

PERMITTED_NAME = "permitted.example.com"
"""Resolves to the local address: see :mod:`bench.resolver`."""
_EVERY_PORT = "    ports: [tcp/*, udp/*]"


def write_policy(
    directory: Path, *, addresses: int = 10, names: int = 0, by_name: bool = False
) -> Path:
    """Write a policy into *directory*, which is made, and return it.

    Args:
        directory: Must not exist yet.
        addresses: How many it permits, 2 or more.
        names: How many it permits; with any, it declares the far side's DNS server.
        by_name: It permits the local address by name only; otherwise, and the far address
            always, by address.
    """
    directory.mkdir()
    lines = ["version: 1", "name: bench"]
    if names:
        lines.append(f"dns: {{servers: [{FAR_ADDRESS}]}}")
    lines.append("allow:")
    probed = [FAR_ADDRESS] if by_name else [LOCAL_ADDRESS, FAR_ADDRESS]
    for address in probed:
        lines += [f"  - cidr: {address}/32", _EVERY_PORT]
    if names:
        lines += [f"  - host: {PERMITTED_NAME}", _EVERY_PORT]
    lines += _list(directory, "cidr_file", other_addresses(addresses - len(probed)))
    lines += _list(directory, "host_file", _other_names(names - 1))
    path = directory / "bench.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _list(directory: Path, key: str, entries: Iterator[str]) -> list[str]:
    text = "\n".join(entries)
    if not text:
        return []
    (directory / f"{key}.txt").write_text(text + "\n")
    return [f"  - {key}: {key}.txt", "    ports: [443]"]


def other_addresses(count: int) -> Iterator[str]:
    """Return *count* addresses of 44.0.0.0/8, amateur radio's: ordinary, and nobody is there."""
    # Each once: 40 503 is odd, so it generates all of 2^24.
    places = (n * 40_503 & 0xFF_FFFF for n in range(count))
    return (f"44.{n >> 16}.{n >> 8 & 0xFF}.{n & 0xFF}" for n in places)


def _other_names(count: int) -> Iterator[str]:
    # A thousand domains, as a list from many sites would have them.
    return (f"host{n // 1000}.site{n % 1000}.example.com" for n in range(count))
