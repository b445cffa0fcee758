# SPDX-License-Identifier: Apache-2.0
"""Names and patterns: their one form, what is no name, and what a pattern holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.net.domain import (
    MAX_NAME,
    NameDepth,
    NamePattern,
    name_key,
    parse_name,
    parse_pattern,
    unicode_name,
)

LONGEST = "a." * 126 + "a"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hub.example.com", "hub.example.com"),
        ("Hub.EXAMPLE.Com.", "hub.example.com"),
        ("localhost", "localhost"),
        ("vllm", "vllm"),
        ("_dns.resolver.arpa", "_dns.resolver.arpa"),
        ("my_service-1", "my_service-1"),
        ("r3---sn-4g5e6nl7.example", "r3---sn-4g5e6nl7.example"),
        ("1.example", "1.example"),
        ("x.1e", "x.1e"),
        ("1.0x-f", "1.0x-f"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (LONGEST, LONGEST),
        (LONGEST + ".", LONGEST),
        # Encoded
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),  # decomposed
        ("faß.example", "xn--fa-hia.example"),  # not fass
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("例え\u3002テスト", "xn--r8jz45g.xn--zckzah"),
        ("\uff45xample\uff0ecom", "example.com"),  # full width
        ("_bücher_.example", None),
    ],
)
def test_parse_name(text, name):
    """A name has one form, however it is written."""
    if name is None:
        with pytest.raises(ValueError, match=r"^expected a name that can be encoded"):
            parse_name(text)
    else:
        assert parse_name(text) == name


ADDRESS = "expected a name, got the address {}; use cidr for addresses"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a name, got ''"),
        (".", "expected a name, got '.'"),
        ("..", "expected a name without empty labels, got '..'"),
        (".example", "expected a name without empty labels, got '.example'"),
        ("a..example", "expected a name without empty labels, got 'a..example'"),
        ("a.example..", "expected a name without empty labels, got 'a.example..'"),
        ("a b.example", "expected a name without white space and control characters, got 'a b"),
        ("a.example\n", "expected a name without white space and control characters, got 'a."),
        ("a\0.example", "expected a name without white space and control characters, got 'a\\x00"),
        ("a\x7f.example", "expected a name without white space and control characters, got"),
        ("a\u00a0b.example", "expected a name without white space and control characters, got"),
        ("a\u2003b.example", "expected a name without white space and control characters, got"),
        ("a%b", "expected letters, digits, dashes, underscores and dots, got 'a%b'"),
        ("user@a.example", "expected letters, digits, dashes, underscores and dots, got"),
        ("a,b", "expected letters, digits, dashes, underscores and dots, got 'a,b'"),
        ("a\\b", "expected letters, digits, dashes, underscores and dots, got 'a\\\\b'"),
        ("*.example", "expected * or ** in front of a name only, got '*.example'"),
        ("-a.example", "expected labels that neither begin nor end with a dash, got '-a.ex"),
        ("a-.example", "expected labels that neither begin nor end with a dash, got 'a-.ex"),
        ("a" * 64, "expected labels of at most 63 characters, got 64 in 'aaaa"),
        ("é" * 60, "expected a name that can be encoded, got "),
        (LONGEST + "b", "expected at most 253 characters, got 254 in 'a.a.a."),
        ("é." * 100, "expected at most 253 characters, got 799 in "),
        ("é" * 2000, "expected at most 253 characters, got 2000"),
        # Other things that name a host
        ("1.2.3.4", ADDRESS.format("'1.2.3.4'")),
        ("1.2.3.4.", ADDRESS.format("'1.2.3.4.'")),
        ("127.1", ADDRESS.format("'127.1'")),
        ("2130706433", ADDRESS.format("'2130706433'")),
        ("0x7f.0.0.0x1", ADDRESS.format("'0x7f.0.0.0x1'")),
        ("0X7F000001", ADDRESS.format("'0X7F000001'")),
        ("\uff11.1.1.1", ADDRESS.format(r"'\uff11.1.1.1'")),
        ("::1", ADDRESS.format("'::1'")),
        ("[2001:db8::1]", ADDRESS.format("'[2001:db8::1]'")),
        ("10.0.0.0/8", "expected a name alone, without scheme, path or prefix length, got '10."),
        ("https://a.example", "expected a name alone, without scheme, path or prefix length"),
        ("a.example/x", "expected a name alone, without scheme, path or prefix length, got 'a.e"),
        ("a.example:443", "expected a name alone (the port goes into ports: [443]), got 'a.exam"),
        ("a:b:c", "expected letters, digits, dashes, underscores and dots, got 'a:b:c'"),
        # What does not encode or decode
        ("xn--a.example", "expected a label that decodes, got 'xn--a': "),
        ("xn--zzzzzzz99999", "expected a label that decodes, got 'xn--zzzzzzz99999': "),
        ("xn--bcher-kva8445foa", "expected a label that decodes, got 'xn--bcher-kva8445foa': "),
        ("xn--.example", "expected labels that neither begin nor end with a dash, got 'xn--.e"),
        ("\u2100.example", "expected letters, digits, dashes, underscores and dots, got"),  # a/c
        ("\uff0a.example", "expected letters, digits, dashes, underscores and dots, got"),  # *
        ("a\u200db.example", "expected a name that can be encoded, got 'a\\u200db.example': "),
        ("a\u202eb.example", "expected a name that can be encoded, got 'a\\u202eb.example': "),
        ("\u2488com", "expected a name that can be encoded, got "),  # a digit with its dot
        ("\ud800.example", "expected a name that can be encoded, got '\\ud800.example': "),
        ("\U0001f4a9.example", "expected a name that can be encoded, got '\\U0001f4a9.example'"),
    ],
)
def test_no_name(text, problem):
    """What is no name is refused with the reason, escaped and on one line."""
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        parse_name(text)

    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "depth"),
    [
        ("Hub.example.", "hub.example", NameDepth.EXACT),
        ("*.Example.com", "example.com", NameDepth.LABEL),
        ("**.example.com.", "example.com", NameDepth.BELOW),
        ("*.bücher.example", "xn--bcher-kva.example", NameDepth.LABEL),
        ("**.com", "com", NameDepth.BELOW),  # who may say that is not decided here
    ],
)
def test_parse_pattern(text, name, depth):
    """A pattern is a name, or stars and a name."""
    pattern = parse_pattern(text)

    assert (pattern.name, pattern.depth) == (name, depth)
    assert parse_pattern(str(pattern)) == pattern


STAR = "expected a name after the star, such as *.example.com, got "


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("*", STAR + "'*'"),
        ("**", STAR + "'**'"),
        ("*.", STAR + "'*.'"),
        ("**.", STAR + "'**.'"),
        ("***.example", "expected * or ** in front of a name only, got '***.example'"),
        ("*a.example", "expected * or ** in front of a name only, got '*a.example'"),
        ("a*.example", "expected * or ** in front of a name only, got 'a*.example'"),
        ("a.*.example", "expected * or ** in front of a name only, got 'a.*.example'"),
        ("*.*.example", "expected * or ** in front of a name only, got '*.example'"),
        ("*..example", "expected a name without empty labels, got '.example'"),
        ("*.1.2.3.4", ADDRESS.format("'1.2.3.4'")),
        ("\uff0a.example", "expected letters, digits, dashes, underscores and dots, got"),
    ],
)
def test_no_pattern(text, problem):
    """A star stands in front of a name, alone in its label."""
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        parse_pattern(text)

    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("pattern", "name", "holds"),
    [
        ("example.com", "example.com", True),
        ("example.com", "a.example.com", False),
        ("example.com", "badexample.com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "badexample.com", False),
        ("**.example.com", "a.example.com", True),
        ("**.example.com", "a.b.c.example.com", True),
        ("**.example.com", "example.com", False),
        ("**.example.com", "badexample.com", False),
        ("**.example.com", "example.com.evil.example", False),
    ],
)
def test_matches(pattern, name, holds):
    """A pattern ends at whole labels, and the name itself is never implied."""
    assert parse_pattern(pattern).matches(name) is holds


LABELS = st.lists(st.sampled_from(["a", "b", "ab", "xn--bcher-kva"]), min_size=1, max_size=5)


@given(LABELS, LABELS, st.sampled_from(NameDepth))
def test_matches_as_label_by_label(above, labels, depth):
    """Matching agrees with a comparison of lists of labels."""
    more = len(labels) - len(above)
    reference = (
        labels[-len(above) :] == above
        and {
            NameDepth.EXACT: more == 0,
            NameDepth.LABEL: more == 1,
            NameDepth.BELOW: more >= 1,
        }[depth]
    )

    assert NamePattern(".".join(above), depth).matches(".".join(labels)) == reference


def _pattern_or_problem(text):
    try:
        return parse_pattern(text)
    except ValueError as err:
        return str(err)


@given(
    st.one_of(
        st.text(st.characters(), max_size=80),
        st.text("aB1-_.*xn:/\0 \u00fc\u00df\u3002\u200d\ud800", max_size=300),
        st.from_regex(
            r"(\*\*?\.)?(xn--[a-z0-9-]{1,12}|[\w-]{1,8})(\.[\w-]{1,8}){0,3}", fullmatch=True
        ),
    )
)
def test_any_text(text):
    """Any text is a pattern whose form is kept, or a ValueError that says what was expected."""
    pattern = _pattern_or_problem(text)
    if isinstance(pattern, str):
        assert pattern.startswith("expected ")
        assert pattern.encode()  # no surrogate gets into a message
        return

    assert parse_pattern(str(pattern)) == pattern
    assert parse_name(pattern.name) == pattern.name
    assert 1 <= len(pattern.name) <= MAX_NAME
    assert all(1 <= len(label) <= 63 for label in pattern.name.split("."))
    assert unicode_name(pattern.name)


def test_unicode_name():
    """Encoded labels come back as people read them."""
    assert unicode_name("a.xn--bcher-kva.example") == "a.bücher.example"


def test_name_key():
    """The key of a name that lies below another begins with that one's."""
    assert name_key("hub.example.com") == b"moc.elpmaxe.buh."
    assert name_key("a.hub.example.com").startswith(name_key("hub.example.com"))
    assert not name_key("badhub.example.com").startswith(name_key("hub.example.com"))
