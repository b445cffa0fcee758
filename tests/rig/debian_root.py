# SPDX-License-Identifier: Apache-2.0
"""A small Debian from the packages that this machine has installed: no registry, no network."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from rig.process import run_checked

_LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")
_FIELDS = "${db:Status-Status}\t${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
_INFO = Path("/var/lib/dpkg/info")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def write_debian_root(tar: Path, work: Path, *packages: str) -> None:
    """Write *packages* and all they depend on to *tar*, with what dpkg knows of them.

    Args:
        tar: The archive, not compressed.
        work: An empty directory for the way there.
        packages: Names of installed packages.
    """
    chosen = _closure(packages)
    root = work / "root"
    for name, target in _LINKS.items():
        (root / target).mkdir(parents=True)
        (root / name).symlink_to(target)
    for name in ("tmp", "run", "proc", "sys", "dev", "root", "var/lib/dpkg/info", "var/log"):
        (root / name).mkdir(parents=True)
    status = "\n".join(run_checked("dpkg-query", "-s", *sorted(chosen)).split("\n---\n"))
    (root / "var/lib/dpkg/status").write_text(status)
    lists = [path for path in _INFO.iterdir() if path.stem.split(":")[0] in chosen]
    files = {path for package in sorted(chosen) for path in _files(package)}
    names = sorted(files | {str(path) for path in lists})
    run_checked("tar", "-cf", str(tar), "--no-recursion", "-C", "/", "-T", "-",
                text="".join(f"{name[1:]}\n" for name in names))  # fmt: skip
    run_checked("tar", "-rf", str(tar), "-C", str(root), ".")


def _closure(packages: tuple[str, ...]) -> set[str]:
    listed = run_checked("dpkg-query", "-W", "-f", _FIELDS)
    needs: dict[str, list[list[str]]] = {}
    providers: dict[str, str] = {}
    for line in listed.splitlines():
        state, name, provides, depends = line.split("\t")
        if state == "installed":
            needs[name] = [_names(entry, "|") for entry in depends.split(",")]
            providers |= {name: name} | dict.fromkeys(_names(provides, ","), name)
    found: set[str] = set()
    waiting = [*packages]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for alternatives in needs[name]:
                waiting += [providers[each] for each in alternatives if each in providers][:1]
    return found


def _names(text: str, separator: str) -> list[str]:
    # "python3:any (>= 3.11)" names python3.
    return [
        m[0] for part in text.split(separator) if (m := re.match(r"[a-z0-9.+-]+", part.strip()))
    ]


def _files(package: str) -> list[str]:
    found = []
    for path in subprocess.check_output(["dpkg", "-L", package], text=True).splitlines():
        # dpkg writes /bin/x where /bin leads to /usr/bin.
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        is_link = os.path.islink(real) and os.path.dirname(real) != "/"
        if (is_link or os.path.isfile(real)) and not real.startswith(_LEFT_OUT):
            found.append(real)
    return found
