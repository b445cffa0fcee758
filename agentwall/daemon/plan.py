# SPDX-License-Identifier: Apache-2.0
"""A request for ``agentwall run``, and what follows from it before anything is made."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agentwall.daemon.belt import with_belt
from agentwall.daemon.enclosure import GENERATION, Blueprint
from agentwall.daemon.inside_state import TlsUse
from agentwall.daemon.inspection import plan_search
from agentwall.daemon.leftovers import CGROUP_PREFIX
from agentwall.daemon.outputs import LOG_DIRECTORY
from agentwall.errors import HostError
from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Mode
from agentwall.host import state
from agentwall.host.cgroup import choose_place
from agentwall.host.coverage import Coverage, CoverageLevel, assess_coverage
from agentwall.host.deputies import deputies_for, kept_deputies, veils_without
from agentwall.host.descriptors import Inherited, kept_open
from agentwall.host.exposure import Arrangement, collect_facts, has_own_netns
from agentwall.host.identity import Identity
from agentwall.host.namespaces import Confinement
from agentwall.host.netns import answers_through_lo, netns_cookie
from agentwall.host.resolver import RESOLV_CONF, make_resolv_conf, read_resolv_conf
from agentwall.host.seccomp import permitted_families
from agentwall.host.veil import Veil
from agentwall.host.warden import Launch
from agentwall.kernel import pins
from agentwall.kernel.maps import SandboxSettings
from agentwall.policy.compile import compile_policy
from agentwall.policy.evaluate import loopback_scope
from agentwall.policy.model import REFUSALS, OnError, Policy
from agentwall.policy.phases import in_phase
from agentwall.policy.tables import RuleTables


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the caller wants to run, and how."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    """The caller's; the command gets it with the identity's variables."""
    policy: Policy
    """In the phase that is wanted; else its first one is meant."""
    mode: Mode | None
    """None: the policy's."""
    identity: Identity
    labels: Mapping[str, str]
    kept_capabilities: tuple[str, ...]
    inherited: tuple[Inherited, ...]
    """From ``judge_descriptors``."""
    events: str | None
    """None: a file of the run's own in /var/log/agentwall/runs."""
    report: str | None
    requires_full: bool
    kept_sockets: tuple[str, ...] = ()
    """Of ``deputies``, not to be left out."""
    signatures: tuple[str, ...] = ()
    """Files and directories, beside those of this host."""
    tls: TlsUse = TlsUse.AUTO
    """Whether text is read inside TLS."""


def new_run_id() -> str:
    """Return an id that sorts by time and fits a cgroup's, a pin's and a file's name."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def policy_in_force(request: RunRequest) -> Policy:
    """Return the policy in its phase, with the mode that was asked for."""
    policy = in_phase(request.policy)
    return replace(policy, mode=request.mode or policy.mode)


def judge_coverage(request: RunRequest, missing_hooks: Collection[str] = ()) -> Coverage:
    """Return how much the wall will cover.

    Args:
        request: What to run.
        missing_hooks: Those that could not be attached, once that is known.

    Raises:
        HostError: Less than full, which was required; or a socket to keep that is not masked.
    """
    arrangement = Arrangement(
        identity=request.identity,
        kept_capabilities=request.kept_capabilities,
        families=_families(request),
        inherited=request.inherited,
        missing_hooks=tuple(missing_hooks),
        environment=request.environment,
        kept_sockets=request.kept_sockets,
        loopback_resolvers=_loopback_resolvers(request.policy),
    )
    coverage = assess_coverage(collect_facts(arrangement))
    if request.requires_full and coverage.level is not CoverageLevel.FULL:
        raise HostError(f"coverage: expected full, got {describe_coverage(coverage)}")
    return coverage


def describe_coverage(coverage: Coverage) -> str:
    """Return *coverage* in one line: ``partial; open roads: ...``."""
    if not coverage.roads:
        return coverage.level.value
    return f"{coverage.level.value}; open roads: {'; '.join(map(str, coverage.roads))}"


def plan_enclosure(run_id: str, request: RunRequest, events: Path) -> Blueprint:
    """Return what the enclosure of *request* is made of.

    Raises:
        HostError: There is no cgroup v2.
        PolicyError: Signatures are malformed, or need too many states.
        BudgetError: Signatures have too many dialects.
        UnsupportedFeatureError: The policy has DNS servers, and the kernel no cookie of network
            namespaces.
    """
    policy = policy_in_force(request)
    tables = compile_policy(policy)
    place = choose_place(f"{CGROUP_PREFIX}{run_id}")
    record = state.RunRecord(
        id=run_id,
        cgroup=place.path,
        pin_dir=str(pins.BPFFS / run_id),
        policy=f"{policy.name} ({policy.files[-1]})" if policy.files else policy.name,
        pid=os.getpid(),
        start_time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        events=str(events),
        argv=request.argv,
    )
    return Blueprint(
        record=record,
        place=place,
        key=SandboxKey(secrets.randbits(63) | 1),
        tables=tables,
        settings=with_belt(_settings(policy, tables), request.kept_capabilities),
        degrade=policy.on_error is OnError.DEGRADE,
        search=plan_search(policy, tables, request.signatures, request.tls),
    )


def _settings(policy: Policy, tables: RuleTables) -> SandboxSettings:
    own_netns = has_own_netns()
    servers = [found.network.network_address for found in policy.dns.servers] if policy.dns else []
    return SandboxSettings(
        generation=GENERATION,
        mode=policy.mode,
        loopback=loopback_scope(policy, own_netns=own_netns),
        refuse_errno=REFUSALS[policy.refuse_with],
        protocols=tables.protocols,
        netns_cookie=netns_cookie() if policy.dns else 0,
        dns=policy.dns,
        has_names=bool(tables.names),
        # In a network namespace of its own, the command may be who owns that address.
        answers_through_lo=not own_netns and answers_through_lo(servers),
    )


def plan_launch(request: RunRequest, written: tuple[Path, ...]) -> Launch:
    """Return how the command of *request* starts.

    Args:
        request: What to run.
        written: Files agentwall writes, which the command must not.
    """
    return Launch(
        argv=request.argv,
        environment={**request.environment, **request.identity.environment},
        identity=request.identity,
        confinement=Confinement(
            hidden=(state.RUN_DIRECTORY, state.STATE_DIRECTORY),
            read_only=tuple(_existing((LOG_DIRECTORY, *written))),
            guards_kernel=request.identity.uid == 0,
            veils=_veils(request),
            files=_files(request.policy),
        ),
        kept_capabilities=request.kept_capabilities,
        families=_families(request),
        kept_descriptors=kept_open(request.inherited),
    )


def _loopback_resolvers(policy: Policy) -> tuple[str, ...]:
    servers = policy.dns.servers if policy.dns else ()
    addresses = (prefix.network.network_address for prefix in servers)
    return tuple(str(address) for address in addresses if address.is_loopback)


def _veils(request: RunRequest) -> tuple[Veil, ...]:
    deputies = deputies_for(request.identity.uid)
    kept = kept_deputies(deputies, request.kept_sockets)
    return veils_without(deputy for deputy in deputies if deputy not in kept)


def _files(policy: Policy) -> dict[Path, str]:
    if policy.dns is None:
        return {}
    return {RESOLV_CONF: make_resolv_conf(policy.dns, read_resolv_conf())}


def _families(request: RunRequest) -> frozenset[int] | None:
    # In audit and in observe mode nothing refuses.
    if policy_in_force(request).mode is not Mode.ENFORCE:
        return None
    return permitted_families(request.kept_capabilities)


def _existing(paths: tuple[Path, ...]) -> list[Path]:
    # A pipe or a device that takes the events is the caller's, and nothing to guard.
    return [path.resolve() for path in paths if path.is_file() or path.is_dir()]
