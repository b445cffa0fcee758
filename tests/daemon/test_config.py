# SPDX-License-Identifier: Apache-2.0
"""What the configuration says of a cgroup."""

from __future__ import annotations

import pytest

from agentwall.daemon.config import Config, Scope, ScopeKind

OWNED = Scope(cgroup="/a.slice", kind=ScopeKind.OWNED, default="default-deny")
SHARED = Scope(cgroup="/b/c", kind=ScopeKind.SHARED)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a.slice/x", OWNED),
        ("/a.slice/x/y", OWNED),
        ("/b/c/x", SHARED),
        ("/a.slice", None),
        ("/a.slicex/y", None),
        ("/b", None),
        ("/", None),
    ],
)
def test_scope_of(path, expected):
    """The scope below which a path lies; the scope itself does not lie below it."""
    assert Config(scopes=(OWNED, SHARED)).scope_of(path) is expected
