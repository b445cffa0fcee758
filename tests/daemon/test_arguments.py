# SPDX-License-Identifier: Apache-2.0
"""Arguments are what they should be, or the answer says which is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.daemon import arguments
from agentwall.daemon.arguments import (
    AdmitRequest,
    DenialsRequest,
    LabelRequest,
    ModeRequest,
    merge_labels,
    read_admit,
    read_denials,
    read_keep,
    read_label,
    read_mode,
    read_nothing,
    read_sandbox,
    read_wait,
)
from agentwall.errors import ControlCode, ControlError
from agentwall.flow.verdict import Mode


def test_label():
    """Labels are set and removed."""
    asked = {"sandbox": "x", "labels": {"a.b/c-D_1": "v é", "gone": None}}

    assert read_label(asked) == LabelRequest(
        sandbox="x", changes={"a.b/c-D_1": "v é", "gone": None}
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "labels: expected at least one"),
        ([], "labels: expected an object, got a list"),
        ({"": "v"}, "labels.: expected 1 to 128 of the characters A-Z a-z 0-9 _ . - / as a name"),
        ({"a b": "v"}, "labels.a b: expected 1 to 128"),
        ({"é": "v"}, "labels.é: expected 1 to 128"),
        ({"a\n": "v"}, "labels.a\\x0a: expected 1 to 128"),
        ({"k" * 129: "v"}, "labels." + "k" * 60 + ": expected 1 to 128"),
        ({"a": 1}, "labels.a: expected text, got 1"),
        ({"a": {}}, "labels.a: expected text, got an object"),
        ({"a": "x" * 10_000}, "labels.a: expected at most 1024 characters, got 10000"),
        ({"a": "x" * 1025}, "labels.a: expected at most 1024 characters, got 1025"),
        ({"a": "\x1b" * 300}, "labels.a: expected at most 1024 characters, got 1200"),
        ({"a": "\ud800"}, "labels.a: expected Unicode text"),
        ({str(n): None for n in range(129)}, "labels: expected at most 64, got 129"),
    ],
)
def test_label_refused(labels, message):
    """Names and values are bounded, and printable once they are escaped."""
    _refused(read_label, {"sandbox": "x", "labels": labels}, message)


@pytest.mark.parametrize("value", ["x" * 1024, "\x1b" * 256, "", "\U0001f600" * 1024])
def test_label_at_its_limit(value):
    """A value of 1 024 characters as it is printed is taken."""
    assert read_label({"sandbox": "x", "labels": {"a": value}}).changes == {"a": value}


def _refused(read, asked, message):
    with pytest.raises(ControlError) as caught:
        read(asked)

    assert caught.value.code is ControlCode.INVALID
    assert str(caught.value).startswith(message)


def test_merge():
    """Changes are made to a copy; the limit is on what comes of them."""
    old = {str(n): "x" for n in range(64)}

    assert merge_labels({"a": "1", "b": "2"}, {"a": None, "c": "3", "d": None}) == {
        "b": "2",
        "c": "3",
    }
    assert len(merge_labels(old, {"0": None, "new": "x"})) == 64
    _refused(
        lambda changes: merge_labels(old, changes),
        {"new": "x"},
        "labels: expected at most 64 in all, got 65",
    )
    assert len(old) == 64


def test_merge_beyond_the_limit():
    """Labels of the runtime's may be more already: then they can be changed and removed."""
    old = {str(n): "x" for n in range(70)}

    assert merge_labels(old, {"0": "y"})["0"] == "y"
    assert len(merge_labels(old, {"0": None})) == 69


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (
            {"sandbox": "x", "mode": "audit", "for_s": 1800, "reason": "r"},
            ModeRequest(sandbox="x", mode=Mode.AUDIT, for_s=1800.0, reason="r"),
        ),
        (
            {"sandbox": None, "mode": "enforce", "for_s": None, "reason": "r"},
            ModeRequest(sandbox=None, mode=Mode.ENFORCE, for_s=None, reason="r"),
        ),
        (
            {"sandbox": None, "mode": None, "reason": "r"},
            ModeRequest(sandbox=None, mode=None, for_s=None, reason="r"),
        ),
    ],
)
def test_mode(asked, found):
    """A mode for a while, for good, and its end."""
    assert read_mode(asked) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sandbox": ...}, "sandbox: expected a value or null, got nothing"),
        ({"mode": ...}, "mode: expected a value or null, got nothing"),
        ({"sandbox": ""}, "sandbox: expected text, got empty text"),
        ({"sandbox": 7}, "sandbox: expected text, got 7"),
        ({"mode": "off"}, "mode: expected observe, audit, enforce or null, got off"),
        ({"mode": []}, "mode: expected observe, audit, enforce or null, got a list"),
        ({"for_s": None}, "for_s: expected how long, in seconds: audit ends by itself"),
        ({"for_s": ...}, "for_s: expected how long, in seconds: audit ends by itself"),
        ({"for_s": 0.5}, "for_s: expected 1 to 86400 seconds, got 0.5"),
        ({"for_s": 86_401}, "for_s: expected 1 to 86400 seconds, got 86401"),
        ({"for_s": float("inf")}, "for_s: expected 1 to 86400 seconds, got inf"),
        ({"for_s": True}, "for_s: expected 1 to 86400 seconds, got True"),
        ({"for_s": "60"}, "for_s: expected 1 to 86400 seconds, got 60"),
        ({"mode": None}, "for_s: expected nothing: the end has no duration"),
        ({"reason": ...}, "reason: expected text, got nothing"),
        ({"reason": "  "}, "reason: expected text, got   "),
        ({"reason": "x" * 501}, "reason: expected at most 500 characters, got 501"),
        ({"force": True}, "force: there is no such argument"),
    ],
)
def test_mode_refused(change, message):
    """Nothing that was forgotten means everything, or for ever."""
    asked = {"sandbox": "x", "mode": "audit", "for_s": 60, "reason": "r", **change}
    _refused(read_mode, {key: value for key, value in asked.items() if value is not ...}, message)


def test_denials():
    """Labels that must have been there; none mean all."""
    assert read_denials({"sandbox": "x"}) == DenialsRequest(sandbox="x", labels={})
    asked = {"sandbox": "x", "labels": {"episode": "17"}}
    assert read_denials(asked).labels == {"episode": "17"}
    _refused(read_denials, {"sandbox": "x", "labels": {"e": None}}, "labels.e: expected text, got")


def test_admit():
    """What a runtime's hook knows; annotations are the runtime's, longer than labels."""
    asked = {"pid": 7, "container": "c", "bundle": None, "labels": {"io.x y": "z" * 5000}}

    assert read_admit(asked) == AdmitRequest(
        pid=7, container="c", bundle=None, labels={"io.x y": "z" * 5000}, policy=None
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pid": None}, "pid: expected a process, got nothing"),
        ({"pid": 0}, "pid: expected a process, got 0"),
        ({"pid": True}, "pid: expected a process, got True"),
        ({"pid": 1 << 31}, "pid: expected a process, got 2147483648"),
        ({"labels": {"a": 1}}, "labels.a: expected text, got 1"),
        ({"labels": {"a": "x" * 262_144}}, "labels: expected at most 262144 characters, got 2621"),
        ({"labels": {str(n): "" for n in range(1025)}}, "labels: expected at most 1024, got 1025"),
        ({"labels": {"a": "\udcff"}}, "labels.a: expected Unicode text"),
        ({"policy": 7}, "policy: expected text, got 7"),
        ({"container": "x" * 5000}, "container: expected at most 4096 characters, got 5000"),
    ],
)
def test_admit_refused(change, message):
    """A hook that says nonsense is told."""
    _refused(read_admit, {"pid": 7, "labels": {}, **change}, message)


@pytest.mark.parametrize(("read", "key"), [(read_wait, "wait"), (read_keep, "keep")])
def test_flags(read, key):
    """True unless it is said."""
    assert read({}) is True
    assert read({key: False}) is False
    _refused(read, {key: 1}, f"{key}: expected true or false, got 1")


def test_others():
    """No arguments, and a sandbox alone."""
    read_nothing({})
    assert read_sandbox({"sandbox": "x"}) == "x"
    _refused(read_nothing, {"x\x1b": 1}, "x\\x1b: there is no such argument")
    _refused(read_sandbox, {}, "sandbox: expected text, got nothing")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["sandbox", "labels", "mode", "for_s", "reason", "pid", "container", "bundle", "policy", "wait"]
)
READERS = [getattr(arguments, name) for name in dir(arguments) if name.startswith("read_")]


@given(st.sampled_from(READERS), st.dictionaries(KEYS | st.text(max_size=9), JSON, max_size=5))
def test_anything(read, asked):
    """Whatever comes is read or refused, in one line."""
    problem = ControlError(ControlCode.INVALID, "")
    try:
        read(asked)
    except ControlError as err:
        problem = err

    assert problem.code is ControlCode.INVALID
    assert "\n" not in str(problem)
