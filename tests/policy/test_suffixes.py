# SPDX-License-Identifier: Apache-2.0
"""Public suffixes: which patterns reach the names of strangers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publicsuffixlist import PSLFILE, PublicSuffixList, encode_idn

from agentwall.net.domain import parse_pattern
from agentwall.policy.suffixes import SuffixKind, check_reach, registrable, suffix_kind

REGISTRY, SHARED = SuffixKind.REGISTRY, SuffixKind.SHARED


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("com", REGISTRY),
        ("co.uk", REGISTRY),
        ("xn--p1ai", REGISTRY),
        ("in-addr.arpa", REGISTRY),
        ("ck", REGISTRY),
        ("any.ck", REGISTRY),  # *.ck
        ("www.ck", None),  # !www.ck
        ("kobe.jp", REGISTRY),  # of *.kobe.jp
        ("city.kobe.jp", None),
        ("github.io", SHARED),
        ("s3.amazonaws.com", SHARED),
        ("s3.us-west-2.amazonaws.com", SHARED),
        ("blob.core.windows.net", SHARED),
        ("compute.amazonaws.com", SHARED),
        ("example.com", None),
        ("a.github.io", None),
        ("amazonaws.com", None),
        ("lan", None),  # nobody lists it
        ("localhost", None),
        ("cluster.local", None),
        ("uk.co", None),
    ],
)
def test_suffix_kind(name, kind):
    """Each section of the list is told from the other, and from ordinary names."""
    assert suffix_kind(name) is kind


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("com", "'com': com is a whole top-level domain, below which anybody can have names"),
        ("*.com", "'*.com': com is a whole top-level domain, below which anybody can have names"),
        ("**.co.uk", "'**.co.uk': co.uk is a public suffix, below which anybody can have names"),
        ("*.lan", "'*.lan': lan is a whole top-level domain, below which anybody can have names"),
        ("**.local", "'**.local': local is a whole top-level domain, below which anybody can have"),
        ("*.any.ck", "'*.any.ck': any.ck is a public suffix, below which anybody can have names"),
        ("**.akershus.no", "'**.akershus.no': nes.akershus.no is a public suffix, below which"),
    ],
)
def test_registries(pattern, problem):
    """What lies below a registry's suffix is refused, whatever the rule says."""
    for shared in (False, True):
        with pytest.raises(ValueError, match=r"^expected names of one owner, got ") as caught:
            check_reach(parse_pattern(pattern), shared=shared)

        assert str(caught.value).startswith(f"expected names of one owner, got {problem}")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("*.github.io", "it is a name that strangers share"),
        ("**.github.io", "it is a name that strangers share"),
        ("github.io", "it is a name that strangers share"),
        ("s3.amazonaws.com", "it is a name that strangers share"),  # buckets by path
        ("*.amazonaws.com", "amazonaws.com, a name that strangers share"),
        ("**.amazonaws.com", "amazonaws.com, a name that strangers share"),
        ("**.windows.net", "windows.net, a name that strangers share"),
        ("*.core.windows.net", "it reaches blob.core.windows.net, a name that strangers share"),
        ("*.compute.amazonaws.com", "it is a name that strangers share"),
        ("*.eu-west-1.compute.amazonaws.com", "it is a name that strangers share"),
    ],
)
def test_shared_suffixes(pattern, why):
    """What strangers share needs a word of the policy's author."""
    with pytest.raises(ValueError, match=r"^expected shared_suffix: true beside ") as caught:
        check_reach(parse_pattern(pattern), shared=False)

    assert why in str(caught.value)
    check_reach(parse_pattern(pattern), shared=True)


@pytest.mark.parametrize(
    "pattern",
    [
        *("example.com", "*.example.com", "**.example.com", "**.a.example.co.uk"),
        *("localhost", "vllm"),
        *("**.cluster.local", "**.svc.cluster.local", "*.internal.example"),
        *("a.github.io", "*.a.github.io", "bucket.s3.amazonaws.com", "*.bucket.s3.amazonaws.com"),
        *("www.ck", "*.www.ck", "*.city.kobe.jp", "*.akershus.no", "sts.amazonaws.com"),
    ],
)
def test_names_of_one_owner(pattern):
    """Ordinary names need no word, single labels and private domains included."""
    check_reach(parse_pattern(pattern), shared=False)


with open(PSLFILE, encoding="utf-8") as _file:
    RULES = [
        encode_idn(line.split()[0].lower().lstrip("!*."))
        for line in _file
        if line.strip() and not line.startswith("//")
    ]
WHOLE, ICANN = PublicSuffixList(), PublicSuffixList(only_icann=True)


@given(st.lists(st.sampled_from(["a", "www", "s3"]), max_size=2), st.sampled_from(RULES))
def test_short_cuts_change_nothing(labels, rule):
    """The kind of a name is what the library says, and says nothing of unlisted domains."""
    name = ".".join([*labels, rule])
    public = WHOLE.is_public(name, accept_unknown=False)
    registry = ICANN.is_public(name, accept_unknown=False)

    assert suffix_kind(name) is ((REGISTRY if registry else SHARED) if public else None)


@pytest.mark.parametrize(
    ("name", "owned"),
    [
        ("a.b.example.com", "example.com"),
        ("example.co.uk", "example.co.uk"),
        ("x.me.github.io", "me.github.io"),
        ("worker-1.rl.svc.cluster.local", "cluster.local"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
    ],
)
def test_registrable(name, owned):
    """What one owner has is one label more than a public suffix, listed or not."""
    assert registrable(name) == owned
