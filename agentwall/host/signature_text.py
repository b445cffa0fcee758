# SPDX-License-Identifier: Apache-2.0
"""Signature files as text; what it means is for :mod:`agentwall.host.signature_files`."""

from __future__ import annotations

import os

from agentwall.detect.signature_document import KEYS
from agentwall.errors import PolicyError, SourceLocation
from agentwall.policy.source import decode_text, parse_source

MAX_FILE_BYTES = 16 << 20


def read_text(path: str) -> str:
    """Return the content of the signature file *path*.

    Raises:
        PolicyError: It cannot be read, is too large or is no UTF-8.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as err:
        raise unreadable(path, err) from err
    if len(raw) > MAX_FILE_BYTES:
        raise unreadable(path, ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB"))
    return decode_text(raw, path)


def is_signature_file(path: str) -> bool:
    """Say whether *path* is a file of signatures, by its keys; one that is no YAML is none."""
    try:
        if not os.path.isfile(path):
            return False
        source = parse_source(read_text(path).encode(), path, dates=True)
    except PolicyError:
        return False
    return not KEYS.isdisjoint(source.data)


def unreadable(path: str, err: OSError | ValueError) -> PolicyError:
    """Return the error that *path* cannot be read because of *err*."""
    text = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    problem = f"cannot be read: {text[:1].lower()}{text[1:]}"
    return PolicyError(SourceLocation(path, 1, 1), "", problem)
