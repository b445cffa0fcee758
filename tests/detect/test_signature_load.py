# SPDX-License-Identifier: Apache-2.0
"""Signature files: what they come to, and each kind of mistake by its message and place."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.detect.signature import Maturity, Side, Transport
from agentwall.detect.signature_load import load_files, load_signatures
from agentwall.errors import PolicyError
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.flow.severity import Severity

FULL = r"""version: 1
fragments:
  ws: '[ \t\r\n]*'
  key: '"k"{{ws}}:{{ws}}'
signatures:
  - id: tunnel/two
    class: tunnel
    dialect: two
    protocol: udp
    direction: either
    pattern: '^\{{{key}}it''s'
    severity: low
    confidence: medium
    maturity: experimental
    hand_over: true
    description: a line
    references: [RFC 1]
    examples: ["{\"k\" : it's", {hex: "7B 226b 223A 697427 73"}]
    counterexamples: ["\x00\xff"]
  - {id: p2p/one, class: p2p, dialect: one, protocol: tcp, direction: server, pattern: 'a+',
     description: d, examples: [a], counterexamples: [b]}
indicators:
  - {id: mining/pools, class: mining, dialect: pool, dated: 2026-11-29,
     names: [Pool.Example., pool.example, "bücher.example"]}
"""
MINIMAL = {
    "id": "mining/x",
    "class": "mining",
    "dialect": "x",
    "protocol": "tcp",
    "direction": "client",
    "pattern": "^x",
    "description": "d",
    "examples": ["x"],
    "counterexamples": ["y"],
}


def _with(**changes) -> str:
    """A file whose one signature is as the least there can be, but for these keys."""
    signature = {k: v for k, v in {**MINIMAL, **changes}.items() if v is not ...}
    return yaml.safe_dump({"version": 1, "signatures": [signature]}, allow_unicode=True)


def _problems(*texts: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_signatures((f"{name}.yaml", text) for name, text in zip("abc", texts, strict=False))
    return [str(error) for error in caught.value.errors]


def test_full():
    """Every key arrives, fragments are in place, and signatures come sorted by id."""
    found = load_signatures([("f.yaml", FULL)])
    one, two = found.signatures

    assert (one.id, one.cls, one.transport) == ("p2p/one", DetectionClass.P2P, Transport.TCP)
    assert one.sides == (Side.SERVER,)
    assert (one.severity, one.confidence) == (Severity.MEDIUM, Confidence.HIGH)
    assert (one.maturity, one.hand_over, one.blocks) == (Maturity.STABLE, False, True)
    assert (two.severity, two.confidence) == (Severity.LOW, Confidence.MEDIUM)
    assert (two.maturity, two.hand_over) == (Maturity.EXPERIMENTAL, True)
    assert two.sides == (Side.CLIENT, Side.SERVER)
    assert two.pattern == r"""^\{(?:"k"(?:[ \t\r\n]*):(?:[ \t\r\n]*))it's"""
    assert two.examples == (b"""{"k" : it's""", b"""{"k":it's""")
    assert two.counterexamples == (b"\x00\xff",)
    assert two.references == ("RFC 1",)
    assert str(two.where) == "f.yaml:6:5"


def test_indicators():
    """Names are in their one form, each once; the date may be written without quotes."""
    (pools,) = load_signatures([("f.yaml", FULL)]).indicators

    assert pools.names == ("pool.example", "xn--bcher-kva.example")
    assert (pools.dated, pools.severity) == ("2026-11-29", Severity.HIGH)


def test_no_files():
    """Nothing at all is a signature set, too."""
    found = load_signatures([])

    assert (found.signatures, found.indicators) == ((), ())
    assert len(found.digest) == 64


@pytest.mark.parametrize(
    "changes", [{"pattern": "^z"}, {"protocol": "udp"}, {"direction": "server"}]
)
def test_digest_changes(changes):
    """The digest changes with whatever the automaton is made of."""
    first = load_signatures([("a.yaml", _with())]).digest

    assert load_signatures([("b.yaml", _with(**changes))]).digest != first


def test_digest_stays():
    """The digest stays where the automaton does: with another path, severity or description."""
    first = load_signatures([("a.yaml", _with())]).digest
    other = load_signatures([("b.yaml", _with(severity="low", description="other"))])

    assert other.digest == first


def test_error_of_a_value():
    """What is found out later still has the place in its file."""
    loaded = load_files([("f.yaml", FULL)])
    error = loaded.error(loaded.signatures.signatures[1], ("examples", 1), "wrong")

    assert str(error) == "f.yaml:18:33: signatures[0].examples[1]: wrong"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": "x"}, "id: expected class/name such as tunnel/ssh-banner, got 'x'"),
        ({"id": "tunnel/x"}, "id: expected an id that begins with mining/, got 'tunnel/x'"),
        ({"class": "scan"}, "class: expected mining, tunnel or p2p, got 'scan'"),
        ({"class": ...}, "class: expected a value, got nothing"),
        ({"dialect": "X y"}, "dialect: expected small letters, digits and dashes, got 'X y'"),
        ({"protocol": "sctp"}, "protocol: expected 'tcp', 'udp' or 'icmp', got 'sctp'"),
        (
            {"direction": "both"},
            "direction: expected 'client', 'server' or 'either', got 'both'",
        ),
        (
            {"severity": "bad"},
            "severity: expected info, low, medium, high or critical, got 'bad'",
        ),
        ({"confidence": "sure"}, "confidence: expected 'high', 'medium' or 'low', got 'sure'"),
        ({"maturity": "old"}, "maturity: expected 'stable' or 'experimental', got 'old'"),
        ({"hand_over": 1}, "hand_over: expected true or false, got 1"),
        ({"description": "a\nb"}, r"description: expected a line of text, got 'a\nb'"),
        ({"description": "a" * 301}, "description: expected at most 300 characters, got 301"),
        ({"examples": []}, "examples: expected at least one entry, got an empty list"),
        ({"counterexamples": ...}, "counterexamples: expected a value, got nothing"),
        ({"examples": [7]}, "examples[0]: expected text or {hex: '05 01 00'}, got 7"),
        ({"examples": [""]}, "examples[0]: expected 1-65536 bytes, got 0"),
        (
            {"examples": [{"hex": "0"}]},
            "examples[0]: expected pairs of hexadecimal digits, got '0'",
        ),
        (
            {"examples": [{"hex": "00", "x": 1}]},
            "examples[0]: expected text or {hex: '05 01 00'}, got a map",
        ),
        (
            {"examples": ["\u20ac"]},
            r"examples[0]: expected characters up to U+00FF, each a byte, got '\u20ac'; hex: takes "
            "any bytes",
        ),
        ({"patern": "x"}, "patern: unknown key; did you mean pattern?"),
        ({"pattern": 7}, "pattern: expected text, got 7"),
        (
            {"pattern": "^a*"},
            "pattern: expected a pattern that needs a byte, got one that matches before any is "
            "said",
        ),
        (
            {"pattern": "a$"},
            "pattern: expected no $ beside protocol: tcp, whose streams have no end",
        ),
    ],
)
def test_bad_value(changes, expected):
    """Each kind of wrong value is named with its key."""
    (problem,) = _problems(_with(**changes))

    assert problem.partition(": ")[2] == f"signatures[0].{expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a.yaml:1:1: expected a map, got an empty file"),
        ("version: 2\n", "a.yaml:1:10: version: expected 1, got 2"),
        (
            "version: 1\nsignature: []\n",
            "a.yaml:2:1: signature: unknown key; did you mean signatures?",
        ),
        ("version: 1\nfragments: {a: 1}\n", "a.yaml:2:16: fragments.a: expected text, got 1"),
        (
            "version: 1\nfragments: {A-b: x}\n",
            "a.yaml:2:13: fragments.'A-b': expected small letters, digits and underscores, got "
            "'A-b'",
        ),
        (
            "version: 1\nindicators: [{id: mining/x, dated: 2026-02-30, class: mining, dialect: x, "
            "names: [a.example]}]\n",
            "a.yaml:2:36: indicators[0].dated: expected a date such as 2026-11-29, got '2026-02-3",
        ),
        ("a: \ud800", "a.yaml:1:4: expected UTF-8, got byte 0xed"),
    ],
)
def test_bad_file(text, expected):
    """Each kind of mistake outside of signatures is named with its place."""
    assert _problems(text)[0].startswith(expected)


def test_bad_name():
    """What is no name is refused as rules on names refuse it."""
    text = yaml.safe_dump(
        {
            "version": 1,
            "indicators": [
                {"id": "mining/x", "class": "mining", "dialect": "x", "dated": "2026-02-03"}
                | {"names": ["10.0.0.1", "a b", 7]}
            ],
        }
    )
    first, second, third = (problem.split(": ", 2)[2] for problem in _problems(text))

    assert first == "expected a name, got the address '10.0.0.1'"
    assert second.startswith("expected a name without white space")
    assert third == "expected a name such as pool.example, got 7"


def test_place_in_a_pattern():
    """The column is that of the character in the pattern, a doubled quote counted as two."""
    text = "version: 1\nfragments:\n  a: 'x{{b}}'\n  c: 'd''(e'\n"
    first, second = _problems(text)

    assert first == (
        "a.yaml:3:8: fragments.a: expected a fragment that is defined above (none is), got 'b'"
    )
    assert second.startswith("a.yaml:4:")
    assert ": fragments.c: " in second


def test_all_at_once():
    """Mistakes in keys, patterns and ids of several files are all told, by file and line."""
    bad = _with(pattern="^{{gone}}", severity="bad", more=1)
    found = _problems(bad, "version: 1\nsignatures: 7\n", _with() + "x: 1\n")

    assert [problem.split(":")[0] for problem in found] == ["a.yaml"] * 3 + ["b.yaml"] + [
        "c.yaml"
    ] * 2
    assert "expected an id of its own, got 'mining/x', which a.yaml:" in found[-2]
    assert found[:3] == sorted(found[:3], key=lambda text: int(text.split(":")[1]))


def test_same_id():
    """Signatures and lists share one space of ids."""
    text = (
        "version: 1\nindicators:\n"
        "  - {id: mining/x, class: mining, dialect: x, dated: 2026-02-03, names: [a.example]}\n"
    )

    (problem,) = _problems(_with(), text)
    assert problem.startswith("b.yaml:3:10: indicators[0].id: expected an id of its own")


TOKENS = st.sampled_from(
    [
        *("version: 1\n", "signatures:\n", "indicators:\n", "fragments:\n", "  - ", "    ", "- "),
        *(f"{key}: " for key in MINIMAL),
        *("'^{{a}}'", "'", '"', "{", "}", "{{", "}}", "[", "]", "(", ")", "*", "{1,2}", "\\x", "^"),
        *("mining/x", "tcp", "2026-11-29", "null", "7", "\n", " ", "&a ", "*a", "!!str ", "\ud800"),
        *("hex: ", "names: ", "hand_over: true\n", "\x00", "\x85", "é", "€"),
    ]
)


def _load_or_fail(text: str) -> None:
    try:
        load_signatures([("f.yaml", text)])
    except PolicyError as err:
        for error in err.errors:
            assert error.where.line >= 1
            assert error.where.column >= 1


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(TOKENS, max_size=40).map("".join))
def test_any_text(text):
    """Whatever the text, it loads or is a PolicyError with a place."""
    _load_or_fail(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["^{{a}}"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*MINIMAL, "severity", "hand_over", "x"]), VALUES, max_size=3),
    st.dictionaries(st.text(max_size=3) | st.just("a"), VALUES, max_size=3),
)
def test_any_value(changes, fragments):
    """Whatever stands in place of a value, it loads or is a PolicyError with a place."""
    document = {"version": 1, "fragments": fragments, "signatures": [{**MINIMAL, **changes}]}
    _load_or_fail(yaml.safe_dump(document))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(FULL)), st.integers(0, 12), TOKENS | st.text(max_size=3))
def test_damaged_text(at, cut, put):
    """Whatever is taken out of a good file or put into it, it loads or is a PolicyError."""
    _load_or_fail(FULL[:at] + put + FULL[at + cut :])
