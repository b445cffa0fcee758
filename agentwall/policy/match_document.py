# SPDX-License-Identifier: Apache-2.0
"""The keys of an entry of ``match``, as a pydantic model; see :mod:`agentwall.policy.document`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from agentwall.flow.origin import Runtime
from agentwall.policy.document_map import Map
from agentwall.policy.globs import fault
from agentwall.policy.problems import show
from agentwall.policy.values import parse_choice

MAX_LABELS = 16
MAX_GLOB = 1024
"""Characters."""
_NOT_ALONE = "expected '**' to stand alone between two '/'"


def _runtime(value: object) -> Runtime:
    return parse_choice(value, Runtime)


def _name_glob(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_GLOB:
        raise ValueError(f"expected text, in which * stands for anything, got {show(value)}")
    if any("**" in name and name != "**" for name in value.split("/")):
        raise ValueError(f"{_NOT_ALONE}, got {show(value)}")
    return value


def _path_glob(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_GLOB:
        raise ValueError(f"expected the path of a cgroup, got {show(value)}")
    if problem := fault(value):
        raise ValueError(problem)
    return value


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_LABELS:
        raise ValueError(f"expected a map of 1 to {MAX_LABELS} labels, got {show(value)}")
    for key, text in value.items():
        if not isinstance(text, str):
            raise ValueError(f"expected text for {show(key)} (quote it), got {show(text)}")
    return dict(value)


_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_GLOB}
Glob = Annotated[str, PlainValidator(_name_glob), WithJsonSchema(_TEXT)]
PathGlob = Annotated[
    str, PlainValidator(_path_glob), WithJsonSchema({**_TEXT, "pattern": "^/[^/]"})
]
RuntimeName = Annotated[
    Runtime | None,
    PlainValidator(_runtime),
    PlainSerializer(lambda value: getattr(value, "value", value)),
    WithJsonSchema({"type": "string", "enum": [runtime.value for runtime in Runtime]}),
]
LabelValues = Annotated[
    dict[str, str],
    PlainValidator(_labels),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "minProperties": 1,
            "maxProperties": MAX_LABELS,
        }
    ),
]


class MatchDocument(Map):
    """What a sandbox must be for the policy to be its: all that the entry says."""

    runtime: RuntimeName = Field(
        default=None,
        description="What made it: " + ", ".join(f"`{runtime.value}`" for runtime in Runtime) + ".",
        examples=["docker"],
    )
    labels: LabelValues = Field(
        default={},
        description="Labels with exactly these values: the harness's, else the runtime's own.",
        examples=[{"role": "rollout"}],
    )
    cgroup: PathGlob = Field(
        default="",
        description="The path of its cgroup: `*` within one name, `**` over any number of names.",
        examples=["/agentwall.slice/**", "/system.slice/docker-*.scope"],
    )
    name: Glob = Field(
        default="",
        description="The container's name; `*` does not reach over a `/`, `**` alone between "
        "two does. So in the following.",
        examples=["rollout-*"],
    )
    image: Glob = Field(
        default="",
        description="The container's image, as the runtime writes it.",
        examples=["registry.example.com/rl/**"],
    )
    namespace: Glob = Field(
        default="", description="The namespace of Kubernetes.", examples=["rl-*"]
    )
    job: Glob = Field(default="", description="The job of Slurm.", examples=["1204"])
    unit: Glob = Field(default="", description="The unit of systemd.", examples=["agent-*.scope"])

    @model_validator(mode="after")
    def _says_something(self) -> MatchDocument:
        if not self.model_fields_set:
            keys = [*type(self).model_fields]
            raise ValueError(f"expected at least one of {', '.join(keys)}, got none")
        return self
