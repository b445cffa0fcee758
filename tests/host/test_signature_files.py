# SPDX-License-Identifier: Apache-2.0
"""Which signature files are in force, and that what they compile to is kept."""

from __future__ import annotations

import pytest
from rig.tree import ROOT

from agentwall.detect import dfa, packing
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Transport
from agentwall.errors import PolicyError
from agentwall.host import kept_files, signature_files
from agentwall.host.signature_files import (
    automaton_of,
    load_signature_files,
    read_signatures,
    shipped_signatures,
    table_of,
)

TEXT = """\
version: 1
signatures:
  - {id: tunnel/%s, class: tunnel, dialect: x, protocol: tcp, direction: client, pattern: '^%s',
     description: d, examples: ['%s'], counterexamples: ['']}
"""


def _write(path, name):
    path.write_text(TEXT.replace("%s", name).replace("['']", "['-']"))
    return str(path)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """A site and a cache of the test's own."""
    monkeypatch.setattr(signature_files, "SITE_SIGNATURES", tmp_path / "site")
    monkeypatch.setattr(kept_files, "SYSTEM_CACHE", tmp_path / "cache")


def test_shipped_are_read(monkeypatch):
    """The shipped files are in force without being named, as they stand in the tree."""
    monkeypatch.chdir(ROOT)
    found = read_signatures()

    assert shipped_signatures() == ROOT / "policies" / "signatures"
    assert {each.where.path for each in (*found.signatures, *found.indicators)} == {
        str(path.relative_to(ROOT)) for path in shipped_signatures().glob("*.yaml")
    }


def test_site_and_extra_are_read(tmp_path):
    """Beside the shipped ones those of the site are in force, and files and directories named."""
    for name in ("site", "more"):
        (tmp_path / name).mkdir()
    _write(tmp_path / "site" / "a.yaml", "site-a")
    _write(tmp_path / "more" / "b.yaml", "more-b")
    _write(tmp_path / "more" / "ignored.txt", "more-c")
    extra = _write(tmp_path / "c", "extra")
    before = {each.id for each in read_signatures().signatures}
    after = {each.id for each in read_signatures((str(tmp_path / "more"), extra)).signatures}

    assert "tunnel/site-a" in before
    assert after - before == {"tunnel/more-b", "tunnel/extra"}


def test_named_twice_counts_once(tmp_path):
    """One file by two ways is no duplicate."""
    path = _write(tmp_path / "a.yaml", "a")
    (tmp_path / "link.yaml").symlink_to(path)
    loaded = load_signature_files([path, str(tmp_path)])

    assert [each.id for each in loaded.signatures.signatures] == ["tunnel/a"]


def test_every_problem_is_told(tmp_path):
    """A missing file, one that is no UTF-8 and a wrong one are all told."""
    (tmp_path / "raw.yaml").write_bytes(b"a: \xff")
    (tmp_path / "wrong.yaml").write_text("version: 1\nx: 1\n")
    with pytest.raises(PolicyError) as caught:
        load_signature_files([str(tmp_path / "none"), str(tmp_path)])

    assert [str(error).removeprefix(f"{tmp_path}/") for error in caught.value.errors] == [
        "none:1:1: cannot be read: no such file or directory",
        "raw.yaml:1:4: expected UTF-8, got byte 0xff",
        "wrong.yaml:2:1: x: unknown key; expected one of version, fragments, signatures, "
        "indicators",
    ]


def test_automaton_is_kept(tmp_path, monkeypatch):
    """What was compiled once is not compiled again; another set is."""
    first = load_signature_files([_write(tmp_path / "a.yaml", "abc")]).signatures
    second = load_signature_files([_write(tmp_path / "b.yaml", "bcd")]).signatures
    compiled = []
    compile_automaton = dfa.compile_automaton

    def _compile(signatures):
        compiled.append(signatures)
        return compile_automaton(signatures)

    monkeypatch.setattr(dfa, "compile_automaton", _compile)
    for signatures in (first, first, second, first, second):
        automaton = automaton_of(signatures)
        text = signatures.signatures[0].examples[0]

        assert scan(automaton, Transport.TCP, Side.CLIENT, text)
        assert not scan(automaton, Transport.TCP, Side.CLIENT, b"-" + text)
    assert compiled == [first.signatures, second.signatures]


def test_table_is_kept(tmp_path, monkeypatch):
    """What was packed once is not packed again, nor is its automaton made; another set's is."""
    first = load_signature_files([_write(tmp_path / "a.yaml", "abc")]).signatures
    second = load_signature_files([_write(tmp_path / "b.yaml", "bcd")]).signatures
    packed = []
    pack_table = packing.pack_table

    def _pack(automaton, signatures):
        packed.append(signatures)
        return pack_table(automaton, signatures)

    monkeypatch.setattr(packing, "pack_table", _pack)
    for signatures in (first, second, first, second):
        table = table_of(signatures)

        assert table == pack_table(automaton_of(signatures), signatures)
    assert packed == [first, second]


def test_table_of_others(tmp_path):
    """Where somebody else could have written it, a table is made anew."""
    signatures = load_signature_files([_write(tmp_path / "a.yaml", "abc")]).signatures
    table = table_of(signatures)
    (path,) = (tmp_path / "cache").glob("*.table")
    path.write_bytes(b"another")
    (tmp_path / "cache").chmod(0o770)

    assert table_of(signatures) == table
    assert path.read_bytes() == b"another"


def test_automaton_without_a_cache(tmp_path, monkeypatch):
    """Where nothing can be kept, it is compiled each time."""
    monkeypatch.setattr(signature_files, "cache_directory", lambda: None)
    signatures = load_signature_files([_write(tmp_path / "a.yaml", "abc")]).signatures

    assert scan(automaton_of(signatures), Transport.TCP, Side.CLIENT, b"abc")
    assert table_of(signatures).states > 1
    assert not (tmp_path / "cache").exists()


def test_too_many_states(tmp_path):
    """A set that needs more room than there is, is an invalid one."""
    path = tmp_path / "a.yaml"
    _write(path, "abc")
    path.write_text(path.read_text().replace("'^abc'", "'a[^b]{200}(?:c.{200}d|e.{200}f)'"))
    signatures = load_signature_files([str(path)]).signatures

    with pytest.raises(PolicyError, match="tunnel/abc"):
        automaton_of(signatures)


def test_nothing(tmp_path):
    """No signatures at all make an automaton that finds nothing."""
    automaton = automaton_of(load_signature_files([]).signatures)

    assert not scan(automaton, Transport.TCP, Side.CLIENT, b"abc")
