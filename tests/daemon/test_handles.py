# SPDX-License-Identifier: Apache-2.0
"""A handle means one sandbox, or none."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from agentwall.daemon.handles import resolve
from agentwall.errors import ControlCode, ControlError
from agentwall.flow.origin import Origin, Runtime


@dataclass
class Box:
    id: str
    cgroup: SimpleNamespace
    origin: Origin | None


def _box(id_, path, container=None, name=None):
    origin = Origin(runtime=Runtime.DOCKER, container=container, name=name)
    return Box(id_, SimpleNamespace(path=path), origin)


BOXES = [
    _box("aaaa11112222", "/s/aaaa", "aaaa11112222" + "0" * 52, "worker"),
    _box("aaaa33334444", "/s/bbbb", "aaaa33334444" + "0" * 52, "tester"),
    _box("three", "/s/three", None, "aaaa3333"),
    _box("four", "/s/four", "beef" + "0" * 60, "worker"),
    Box("host-run", SimpleNamespace(path="/s/x\x1b"), None),
]


@pytest.mark.parametrize(
    ("handle", "found"),
    [
        ("aaaa11112222", 0),
        ("aaaa1", 0),
        ("aaaa11112222" + "0" * 52, 0),
        ("tester", 1),
        ("/s/bbbb", 1),
        ("three", 2),
        ("beef", 3),
        ("host-run", 4),
    ],
)
def test_found(handle, found):
    """By id, cgroup, container, its beginning, or name."""
    assert resolve(handle, BOXES) is BOXES[found]


@pytest.mark.parametrize("handle", ["bee", "nobody", "/s", "aaaa11112222" + "0" * 53, ""])
def test_not_found(handle):
    """Anything else is no sandbox; three characters are too few."""
    with pytest.raises(ControlError, match="no such sandbox: ") as caught:
        resolve(handle, BOXES)

    assert caught.value.code is ControlCode.NOT_FOUND


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        ("worker", "worker: expected one sandbox, got 2: aaaa11112222 at /s/aaaa; four at /s/four"),
        ("aaaa", "aaaa: expected one sandbox, got 2: aaaa11112222 at /s/aaaa; aaaa33334444 at /s"),
        # A name that was chosen to look like another's container.
        ("aaaa3333", "aaaa3333: expected one sandbox, got 2: aaaa33334444 at /s/bbbb; three at"),
    ],
)
def test_ambiguous(handle, message):
    """What could mean several is an error that lists them."""
    with pytest.raises(ControlError) as caught:
        resolve(handle, BOXES)

    assert caught.value.code is ControlCode.INVALID
    assert str(caught.value).startswith(message)


def test_many():
    """Of a thousand, ten are listed."""
    boxes = [_box(f"b{n}", f"/s/{n}", f"cafe{n:060}") for n in range(1000)]
    with pytest.raises(ControlError, match=r"got 1000: b0 at .*; b9 at /s/9; 990 more$"):
        resolve("cafe", boxes)
