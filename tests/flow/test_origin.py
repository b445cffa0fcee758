# SPDX-License-Identifier: Apache-2.0
"""Where sandboxes come from."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(
    ("by_path", "told", "expected"),
    [
        (Runtime.OTHER, Runtime.CONTAINERD, Runtime.CONTAINERD),
        (Runtime.DOCKER, Runtime.CONTAINERD, Runtime.CONTAINERD),
        (Runtime.DOCKER, Runtime.OTHER, Runtime.DOCKER),
        (Runtime.KATA, Runtime.KUBERNETES, Runtime.KATA),
        (Runtime.SLURM, Runtime.CONTAINERD, Runtime.SLURM),
    ],
)
def test_the_runtime_is_told_where_the_path_leaves_it_open(by_path, told, expected):
    """A bare id may be anybody's; a name that only one runtime gives is that runtime's."""
    found = Origin(runtime=by_path, container="4f").enriched(Origin(runtime=told))

    assert found == Origin(runtime=expected, container="4f")
