# SPDX-License-Identifier: Apache-2.0
"""Where sandboxes come from."""

from __future__ import annotations

from agentwall.flow.origin import Origin, Runtime


def test_what_is_told_is_laid_beside_what_is_known():
    """A path tells the container and the unit; only a runtime knows names, images and labels."""
    known = Origin(runtime=Runtime.DOCKER, container="4f", unit="a.scope", labels={"a": "1"})
    told = Origin(
        runtime=Runtime.OTHER, container="99", name="box", image="i", labels={"a": "2", "b": "3"}
    )

    assert known.enriched(None) is known
    assert known.enriched(told) == Origin(
        runtime=Runtime.DOCKER,
        container="4f",
        name="box",
        image="i",
        unit="a.scope",
        labels={"a": "2", "b": "3"},
    )
