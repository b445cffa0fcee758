# SPDX-License-Identifier: Apache-2.0
"""Policy files to a :class:`~agentwall.policy.model.Policy`, strictly.

Reading is in :mod:`agentwall.policy.extends`, the keys in :mod:`agentwall.policy.document`; here
the files are merged. Every fault is a :class:`~agentwall.errors.PolicyError` with a place, and all
faults that can be found at once are attached to the first.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from agentwall.errors import PolicyError
from agentwall.flow.verdict import Verdict
from agentwall.policy.compile import extra_protocols
from agentwall.policy.detect_merge import merge_detect
from agentwall.policy.dns_document import DnsDocument
from agentwall.policy.document import LISTS, PolicyDocument
from agentwall.policy.extends import (
    PolicyFile,
    default_search_path,
    gather,
    shipped_policies,
)
from agentwall.policy.model import DnsSettings, Policy, PolicyTest, Rule, RulePrefix, Section
from agentwall.policy.phases import every_rule, in_each_phase
from agentwall.policy.problems import Problems, describe_place, show
from agentwall.policy.rules import make_rules, make_selectors, merge_phases, place_of
from agentwall.policy.values import NAME_PATTERN

MAX_EXTRA_PROTOCOLS = 8
"""``AW_MAX_PROTOCOLS`` of ``bpf/abi.h``."""


def load_policy(
    path: str | os.PathLike[str], *, search_path: Sequence[Path] | None = None
) -> Policy:
    """Load the policy file *path* with its bases and lists.

    Args:
        path: Shown in places as given here.
        search_path: Where ``extends`` looks after the file's own directory; by default
            /etc/agentwall/policies and the policies shipped with agentwall.

    Raises:
        PolicyError: Whatever is wrong with the file or those it names, unreadable ones included;
            :attr:`~agentwall.errors.PolicyError.errors` holds everything found.
    """
    files = gather(os.fspath(path), default_search_path() if search_path is None else search_path)
    return _merge(files)


def default_policy() -> Policy:
    """Load the policy that holds where none is given: everything is denied but loopback."""
    return load_policy(shipped_policies() / "default-deny.yaml")


def _merge(files: Sequence[PolicyFile]) -> Policy:
    own = files[-1]
    names = _names(files)
    named = list(zip(files, names, strict=True))
    rules = {
        section: tuple(rule for file, name in named for rule in make_rules(file, name, section))
        for section in LISTS
    }
    dns = _dns(files)
    scalars = _inherited(files)
    contents = [content for file in files for content in file.contents]
    policy = Policy(
        name=names[-1],
        mode=scalars.mode,
        on_error=scalars.on_error,
        refuse_with=scalars.refuse_with,
        loopback=scalars.loopback,
        allow=rules[Section.ALLOW],
        deny=rules[Section.DENY],
        inbound=rules[Section.INBOUND],
        dns=dns,
        detect=merge_detect(files),
        tests=_tests(own),
        files=tuple(dict.fromkeys(path for path, _ in contents)),
        digest=hashlib.sha256(b"".join(raw for _, raw in contents)).hexdigest(),
        match=make_selectors(own),
        phases=merge_phases(named),
    )
    _check(policy)
    return policy


def _inherited(files: Sequence[PolicyFile]) -> PolicyDocument:
    """Return a document whose single values are those of the last file that sets each."""
    merged: dict[str, object] = {}
    for file in files:
        for key in file.document.model_fields_set & {"mode", "on_error", "refuse_with", "loopback"}:
            merged[key] = getattr(file.document, key)
    return PolicyDocument(version=1).model_copy(update=merged)


def _names(files: Sequence[PolicyFile]) -> list[str]:
    seen: dict[str, str] = {}
    problems = Problems()
    names = []
    for file in files:
        path = file.source.path
        name = file.document.name or _name_of_file(path)
        if name in seen:
            # Rule ids are made of names: two rules must not share one.
            problem = f"expected a name of its own, got {show(name)}, which {seen[name]} has"
            problems.add(file.source.locate(("name",), key=True), ("name",), problem)
        seen[name] = path
        names.append(name)
    problems.raise_any()
    return names


def _name_of_file(path: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", Path(path).stem)[:63]
    return stem if re.fullmatch(NAME_PATTERN, stem) else "policy"


def _dns(files: Sequence[PolicyFile]) -> DnsSettings | None:
    """Return what the last file that sets each key of ``dns`` says; None without any."""
    origin: dict[str, PolicyFile] = {}
    last = None
    for file in files:
        if "dns" in file.document.model_fields_set:
            last = file
            origin |= dict.fromkeys(file.document.dns.model_fields_set, file)
    if last is None:
        return None
    where = last.source.locate(("dns",), key=True)
    if "servers" not in origin:
        problem = "expected the addresses of name servers, here or in a base, got nothing"
        raise PolicyError(where, "dns.servers", problem)
    merged = DnsDocument().model_copy(
        update={key: getattr(file.document.dns, key) for key, file in origin.items()}
    )
    source = origin["servers"].source
    return DnsSettings(
        servers=tuple(
            RulePrefix(network, source.locate(("dns", "servers", index)))
            for index, network in enumerate(merged.servers)
            if network not in merged.servers[:index]
        ),
        search=tuple(dict.fromkeys(merged.search)),
        names=merged.names,
        min_ttl_s=merged.min_ttl,
        max_addresses=merged.max_addresses,
        where=where,
    )


def _check(policy: Policy) -> None:
    """Refuse what the rules of *policy*, in whichever phase, cannot come to."""
    if policy.dns is None:
        _check_no_names(every_rule(policy))
    for phased in in_each_phase(policy):
        _check_protocols(phased.allow + phased.inbound)


def _check_no_names(rules: Sequence[Rule]) -> None:
    """Refuse every rule on names: no answer would ever be believed."""
    problems = Problems()
    problem = (
        "expected dns.servers in this policy: names count for the addresses that these servers "
        "answer with"
    )
    for rule in rules:
        if rule.patterns:
            problems.add(rule.where, place_of(rule), problem)
    problems.raise_any()


def _check_protocols(rules: Sequence[Rule]) -> None:
    """Refuse more protocols than the kernel's record of a sandbox has room for."""
    found: set[int] = set()
    for rule in rules:
        found.update(extra_protocols((rule,)))
        if len(found) > MAX_EXTRA_PROTOCOLS:
            problem = (
                f"expected at most {MAX_EXTRA_PROTOCOLS} protocols beside TCP and UDP in one "
                f"policy (icmp counts as 2), got {len(found)}"
            )
            raise PolicyError(rule.where, describe_place((*place_of(rule), "ports")), problem)


def _tests(file: PolicyFile) -> tuple[PolicyTest, ...]:
    return tuple(
        PolicyTest(
            remote=row.to,
            expect=Verdict(row.expect),
            where=file.source.locate(("tests", index)),
        )
        for index, row in enumerate(file.document.tests)
    )
