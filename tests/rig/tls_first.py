# SPDX-License-Identifier: Apache-2.0
"""Programs whose first act is TLS, each over a copy of OpenSSL that no process has mapped before.

As the first process of a container, of an image that is new to the host; or of a directory that
only its own ``LD_LIBRARY_PATH``, ``DT_RUNPATH`` or virtual environment names.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rig import tls_programs as programs
from rig.containers import Engine
from rig.process import run_checked

SPEAK = "/app/bin/speak"
"""In such an image."""
_LINE = re.compile(r"(?:(\S+) => )?(/\S+) \(0x")
_numbers = itertools.count(1)


def libraries_of(program: Path) -> list[Path]:
    """Return what the dynamic linker maps for *program*, itself included."""
    return [Path(match[2]) for match in _LINE.finditer(run_checked("ldd", str(program)))]


def dynamic_linker() -> str:
    """Return the path of what executes *programs.openssl_client*, in such an image as well."""
    found = libraries_of(programs.openssl_client(static=False))
    return next(str(each) for each in found if each.name.startswith("ld-"))


def write_own_library(directory: Path) -> Path:
    """Copy the OpenSSL that *programs.openssl_client* is linked with: a file that is new."""
    directory.mkdir(parents=True, exist_ok=True)
    for each in libraries_of(programs.openssl_client(static=False)):
        if each.name.startswith("libssl"):
            return Path(shutil.copyfile(each, directory / each.name))
    raise RuntimeError("ldd: expected libssl, got none")


def import_image(engine: Engine, directory: Path, place: str) -> str:
    """Make such an image, new to the host, and have *engine* import it; return its name.

    Args:
        engine: Podman or Docker.
        directory: To make it in.
        place: As in :func:`write_image`.
    """
    archive, name = write_image(directory, place)
    engine.call("import", str(archive), name)
    return name


def write_image(
    directory: Path, place: str, more: Mapping[str, Path] | None = None
) -> tuple[Path, str]:
    """Write the files of an image with :data:`SPEAK` and its libraries, new to the host.

    Args:
        directory: To make it in.
        place: Where in the image its libssl is; the rest is where it is here.
        more: Further files, by their paths in the image.

    Returns:
        The archive, and a name that no other image has.
    """
    name = f"agentwall-first:{next(_numbers)}"
    tree = directory / name.replace(":", "-")
    client = programs.openssl_client(static=False)
    files = {SPEAK: client, **(more or {})}
    for each in libraries_of(client):
        files[f"{place}/{each.name}" if each.name.startswith("libssl") else str(each)] = each
    for path, file in files.items():
        (tree / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tree / path[1:])
    for empty in ("proc", "sys", "dev", "tmp", "etc"):
        (tree / empty).mkdir()
    archive = directory / f"{tree.name}.tar"
    run_checked("tar", "-C", str(tree), "-cf", str(archive), ".")
    return archive, name


def speak_words(words: Sequence[str], program: str) -> list[str]:
    """Return the command line of a ``c-`` client with *program* in its place."""
    return [program, *words[1:]]
