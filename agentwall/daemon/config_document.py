# SPDX-License-Identifier: Apache-2.0
"""The keys of the daemon's configuration, as pydantic models; counterpart: ``config_load``.

As :mod:`agentwall.policy.document` does for policies: the loader validates with these models, and
the JSON Schema and the tables of docs/configuration.md are generated from them. The defaults are
those of :mod:`agentwall.daemon.config`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from agentwall.daemon.config import (
    CONTROL_SOCKET,
    Config,
    LogSettings,
    ResponseSettings,
    TlsSettings,
)
from agentwall.daemon.config_values import (
    Bytes,
    Cgroup,
    CommandWord,
    Glob,
    Group,
    Libraries,
    Listen,
    Name,
    Path,
    Rate,
    Rotations,
    Seconds,
    SocketPath,
    Use,
    is_loopback,
    program_fault,
)
from agentwall.policy.document_map import Map
from agentwall.policy.values import Version

DEFAULT_POLICY = "default-deny"
"""What an owned scope stands under that names no other: shipped with agentwall."""
MAX_SCOPES = 64
MAX_ENTRIES = 256

_CONFIG = Config()
_LOG = LogSettings()
_RESPONSE = ResponseSettings()
_TLS = TlsSettings()


def _at_key(key: str, problem: str) -> PydanticCustomError:
    # pydantic has one place for what concerns several keys; policy/wording.py adds this one to it.
    return PydanticCustomError("at_key", "{problem}", {"key": key, "problem": problem})


class ScopeDocument(Map):
    """A cgroup below which sandboxes are looked for."""

    cgroup: Cgroup = Field(
        description="The cgroup, as /proc/PID/cgroup spells it; never `/`. No two scopes may be "
        "the same or lie within one another.",
        examples=["/agentwall.slice", "/system.slice", "/kubepods.slice"],
    )
    kind: Literal["owned", "shared"] = Field(
        description="`owned`: nothing but sandboxes lives there, and who is born there is born "
        "under `default`. `shared`: others live there too, and nothing is refused by being there.",
        examples=["owned", "shared"],
    )
    default: Name = Field(
        default="",
        description="The policy of whatever is there without one of its own. Of an owned scope "
        f"`{DEFAULT_POLICY}` unless given; a shared scope has none.",
        examples=["rl-rollout"],
    )
    policies: tuple[Name, ...] = Field(
        default=(),
        max_length=MAX_ENTRIES,
        description="The policies that sandboxes here may be given. Absent: all.",
        examples=[["rl-rollout", "rl-eval"]],
    )
    include: tuple[Glob, ...] = Field(
        default=(),
        max_length=MAX_ENTRIES,
        description="Of a shared scope: cgroups below it that are sandboxes, beside those of "
        "known runtimes. `*` stands for one name, `**` for any number of names.",
        examples=[["/system.slice/rollout-*.service"]],
    )
    exclude: tuple[Glob, ...] = Field(
        default=(),
        max_length=MAX_ENTRIES,
        description="Cgroups below it that are none, whatever else says so.",
        examples=[["/system.slice/docker-*.scope/init"]],
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ScopeDocument:
        if self.kind == "shared" and "default" in self.model_fields_set:
            raise _at_key(
                "default",
                "expected none in a shared scope: other things than sandboxes live there, and "
                "they would be refused everything; name the policy in its match, or make the "
                "scope owned",
            )
        if self.kind == "owned" and self.include:
            raise _at_key(
                "include", "expected none in an owned scope: whatever is there is a sandbox"
            )
        return self


class RuntimesDocument(Map):
    """The sockets of container runtimes, which are asked who a container is."""

    docker: SocketPath = Field(default="", description="Of dockerd.", examples=["/run/docker.sock"])
    podman: SocketPath = Field(
        default="", description="Of podman's service.", examples=["/run/podman/podman.sock"]
    )
    containerd: SocketPath = Field(
        default="",
        description="Of containerd. It is not asked: the bundles beside it are read.",
        examples=["/run/containerd/containerd.sock"],
    )
    cri_o: SocketPath = Field(
        default="",
        alias="cri-o",
        description="Of CRI-O. It is not asked: the bundles in its storage are read.",
        examples=["/run/crio/crio.sock"],
    )
    kubernetes: SocketPath = Field(
        default="",
        description="Of a containerd that makes pods, if another: the bundles beside it are read.",
        examples=["/run/containerd/containerd.sock"],
    )


class LogDocument(Map):
    """The event log."""

    path: Path = Field(
        default=str(_LOG.path),
        description="Where it is written, one JSON document a line.",
        examples=["/var/log/agentwall/events.jsonl"],
    )
    max_bytes: Bytes = Field(
        default=_LOG.max_bytes,
        description="How large a file may grow before it is rotated: bytes, or with `KiB`, "
        "`MiB` or `GiB`, from 64KiB.",
        examples=["256MiB", 1073741824],
    )
    keep: Rotations = Field(
        default=_LOG.keep, description="How many rotated files are kept, 0-1000.", examples=[8]
    )
    group: Group = Field(
        default="",
        description="The group whose members may read it. Absent: root only.",
        examples=["agentwall-log"],
    )
    journal: bool = Field(
        default=_LOG.journal,
        strict=True,
        description="Whether denials and worse, and what happens to the wall, also go to journald.",
        examples=[True],
    )
    flows: bool = Field(
        default=_LOG.flows,
        strict=True,
        description="Whether permitted flows are written too, not only what was refused or found.",
        examples=[False],
    )


class ControlDocument(Map):
    """The control socket."""

    socket: SocketPath = Field(
        default=str(CONTROL_SOCKET),
        description="Where it is. Sandboxes must not see it; it refuses them anyway.",
        examples=["/run/agentwall/control.sock"],
    )
    readers: Group = Field(
        default="",
        description="The group whose members may look: status, lists, denials. Absent: root only.",
        examples=["agentwall-read"],
    )
    operators: Group = Field(
        default="",
        description="The group whose members may also label sandboxes and switch their phases.",
        examples=["agentwall-harness"],
    )


class MetricsDocument(Map):
    """What Prometheus scrapes."""

    listen: Listen = Field(
        description="Address and port. No authentication there: anybody who reaches it reads it.",
        examples=["127.0.0.1:9477", "[::1]:9477"],
    )
    allow_remote: bool = Field(
        default=False,
        strict=True,
        description="Whether `listen` may be an address that other hosts reach.",
        examples=[True],
    )

    @model_validator(mode="after")
    def _stays_here(self) -> MetricsDocument:
        if not self.allow_remote and not is_loopback(self.listen):
            raise _at_key(
                "listen",
                f"expected a loopback address, got {self.listen!r}, which other hosts reach: "
                "allow_remote: true permits it",
            )
        return self


class ResponseDocument(Map):
    """What follows on a detection beside cutting the flow."""

    command: tuple[CommandWord, ...] = Field(
        default=(),
        max_length=MAX_ENTRIES,
        description="Run for each flow that was cut, the event as JSON on its standard input: a "
        "program by its path, and its arguments. No shell is involved.",
        examples=[["/usr/local/bin/page", "--severity", "high"]],
    )
    command_timeout_s: Seconds = Field(
        default=int(_RESPONSE.command_timeout_s),
        description="After how many seconds the command is killed, 1-600.",
        examples=[10],
    )
    per_minute: Rate = Field(
        default=_RESPONSE.per_minute,
        description="How many commands, freezes and kills at most follow within a minute on the "
        "whole host, 0-10000; more are recorded only.",
        examples=[30],
    )
    snapshots: Path = Field(
        default=str(_RESPONSE.snapshots),
        description="The directory for what a frozen sandbox was doing.",
        examples=["/var/lib/agentwall/snapshots"],
    )

    @model_validator(mode="after")
    def _begins_with_a_program(self) -> ResponseDocument:
        if self.command and (fault := program_fault(self.command[0])):
            raise _at_key("command", fault)
        return self


class TlsDocument(Map):
    """Reading inside TLS, before a sandbox's libraries encrypt."""

    inspect: Use = Field(
        default=_TLS.inspect.value,
        description="`auto`: where bcc and uprobes are there; where they are not, `status` and "
        "`doctor` say so, and everything else works. `require`: the daemon does not start "
        "without. `off`: not at all.",
        examples=["auto", "off", "require"],
    )
    max_libraries: Libraries = Field(
        default=_TLS.max_libraries,
        description="How many files of TLS libraries are probed at the same time, 1-1024. What "
        "is beyond that is not read, and `status` says how many those were.",
        examples=[64],
    )


class ConfigDocument(Map):
    """The configuration of agentwall's daemon."""

    model_config = ConfigDict(title="agentwall daemon configuration")

    version: Version = Field(description="The version of the language.", examples=[1])
    policies: Path = Field(
        default=str(_CONFIG.policies),
        description="The directory of the policies that sandboxes can be given: each `*.yaml` "
        "directly in it. It may be, or lie in, a git checkout; events then carry the commit.",
        examples=["/etc/agentwall/policies"],
    )
    signatures: tuple[Path, ...] = Field(
        default=(),
        max_length=MAX_ENTRIES,
        description="Signature files, and directories of them, beside those of this host.",
        examples=[["/srv/agentwall/signatures"]],
    )
    scopes: tuple[ScopeDocument, ...] = Field(
        default=(),
        min_length=1,
        max_length=MAX_SCOPES,
        description="Where sandboxes are looked for. Absent: `/agentwall.slice`, owned, under "
        f"`{DEFAULT_POLICY}`.",
        examples=[[{"cgroup": "/agentwall.slice", "kind": "owned", "default": "rl-rollout"}]],
    )
    runtimes: RuntimesDocument = Field(
        default=RuntimesDocument(),
        description="Sockets of container runtimes that are asked who a container is. Absent: "
        "those that are where they usually are.",
        examples=[{"docker": "/run/docker.sock"}],
    )
    log: LogDocument = Field(
        default=LogDocument(),
        description="The event log.",
        examples=[{"max_bytes": "1GiB", "keep": 4}],
    )
    control: ControlDocument = Field(
        default=ControlDocument(),
        description="The control socket.",
        examples=[{"readers": "agentwall-read", "operators": "agentwall-harness"}],
    )
    metrics: MetricsDocument = Field(
        default=MetricsDocument.model_construct(listen=""),
        description="Where Prometheus may scrape. Absent: nowhere.",
        examples=[{"listen": "127.0.0.1:9477"}],
    )
    response: ResponseDocument = Field(
        default=ResponseDocument(),
        description="What follows on a detection beside cutting the flow.",
        examples=[{"command": ["/usr/local/bin/page"], "per_minute": 10}],
    )
    tls: TlsDocument = Field(
        default=TlsDocument(),
        description="Reading inside TLS, before a sandbox's libraries encrypt.",
        examples=[{"inspect": "require"}],
    )
    watch: bool = Field(
        default=_CONFIG.watch,
        strict=True,
        description="Whether changed policies, signatures and this file are read by themselves, "
        "and not on SIGHUP and `agentwall reload` alone.",
        examples=[False],
    )
    state: Path = Field(
        default=str(_CONFIG.state),
        description="The directory of the records by which the next daemon finds what this one "
        "holds. On a file system that a reboot empties.",
        examples=["/run/agentwall/daemon"],
    )


MODELS: dict[str, type[BaseModel]] = {
    "The file": ConfigDocument,
    "An entry under `scopes`": ScopeDocument,
    "The map under `runtimes`": RuntimesDocument,
    "The map under `log`": LogDocument,
    "The map under `control`": ControlDocument,
    "The map under `metrics`": MetricsDocument,
    "The map under `response`": ResponseDocument,
    "The map under `tls`": TlsDocument,
}
"""Each kind of map, with the title it has in the reference."""
