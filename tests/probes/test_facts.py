# SPDX-License-Identifier: Apache-2.0
"""What a file is, is read once: it is remembered by the file, within bounds."""

from __future__ import annotations

import os

import pytest
from rig.descriptors import descriptors
from rig.objects import functions, shared_object

from agentwall.flow.tls import TlsLibrary
from agentwall.probes import facts as module
from agentwall.probes.facts import UNKNOWN, Build, facts_of

OPENSSL, _ = functions(["SSL_write", "SSL_read", "SSL_free"])
OTHER, _ = functions(["something"])


@pytest.fixture(autouse=True)
def reads(monkeypatch):
    """How often a file was read; nothing is remembered from before."""
    times = []
    read = module._read

    def counted(fd):
        times.append(fd)
        return read(fd)

    monkeypatch.setattr(module, "_read", counted)
    monkeypatch.setattr(module, "_remembered", {})
    return times


def facts(path):
    """Return what is known of a file; nothing stays open."""
    before = descriptors()
    found = os.open(path, os.O_PATH)
    try:
        return facts_of(found, os.fstat(found))
    finally:
        os.close(found)
        assert descriptors() <= before


def test_kinds(tmp_path):
    """A library with its functions, something else, and what is not ELF."""
    library = facts(shared_object(tmp_path / "libssl.so", OPENSSL))
    other = facts(shared_object(tmp_path / "other.so", OTHER))
    (tmp_path / "text").write_text("not ELF")

    assert library.library is TlsLibrary.OPENSSL
    assert set(library.offsets) == {"SSL_write", "SSL_read", "SSL_free"}
    assert (other.library, dict(other.offsets)) == (None, {})
    assert facts("/usr/bin/sleep").build is Build.DYNAMIC
    assert facts(tmp_path / "text") == UNKNOWN


def test_a_file_is_read_once(tmp_path, reads):
    """By whatever name; again when it was written to, and so is another of the same content."""
    path = shared_object(tmp_path / "libssl.so", OPENSSL)
    os.link(path, tmp_path / "link")
    first = [facts(path), facts(tmp_path / "link")]
    times = [len(reads)]
    shared_object(tmp_path / "new", OTHER)
    with open(path, "r+b") as file:
        file.write((tmp_path / "new").read_bytes())
    changed = facts(path)
    times.append(len(reads))
    shared_object(tmp_path / "libssl2.so", OPENSSL)
    facts(tmp_path / "libssl2.so")
    times.append(len(reads))

    assert first[0] is first[1]
    assert changed.library is None
    assert times == [1, 2, 3]


def test_a_crowd_is_forgotten_again(tmp_path, reads, monkeypatch):
    """Of so many files it is remembered; the oldest is read again, the newest is not."""
    monkeypatch.setattr(module, "MAX_REMEMBERED", 8)
    for number in range(20):
        (tmp_path / str(number)).touch()
        facts(tmp_path / str(number))
    facts(tmp_path / "19")
    held = len(module._remembered)
    facts(tmp_path / "0")

    assert held == 8
    assert len(reads) == 21
