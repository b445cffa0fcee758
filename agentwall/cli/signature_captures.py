# SPDX-License-Identifier: Apache-2.0
"""Captures searched for signatures alone: no decoder, no behaviour, no policy has a say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from agentwall.capture.matching import TRANSPORTS
from agentwall.capture.reader import read_captures
from agentwall.cli import failures
from agentwall.detect.automaton import Automaton
from agentwall.detect.conversation import Conversation
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, SignatureSet, Transport
from agentwall.host.signature_files import automaton_of
from agentwall.net.destination import describe_destination
from agentwall.sinks.escape import printable


def search_captures(paths: Sequence[str], signatures: SignatureSet) -> int:
    """Print which of *signatures* match in captures, flow by flow.

    Args:
        paths: As :func:`~agentwall.capture.reader.read_captures` takes them.
        signatures: What to look for.

    Returns:
        The exit code: 2 where something could not be read, else 0. A match is no failure.
    """
    automaton = automaton_of(signatures)
    has_errors = False
    for result in read_captures(paths):
        for conversation in result.conversations:
            flow = (
                f"{describe_destination(conversation.client)} -> "
                f"{describe_destination(conversation.server)}"
            )
            for side, index, end in search(conversation, automaton):
                found = signatures.signatures[index]
                line = f"{result.path}: {flow}: {found.id} ({side.value}, up to byte {end})"
                click.echo(printable(line))
        for error in result.errors:
            has_errors = True
            failures.print_lines([str(error)])
    return failures.EXIT_USAGE if has_errors else 0


def search(conversation: Conversation, automaton: Automaton) -> Iterator[tuple[Side, int, int]]:
    """Yield each match: who said it, the index of the signature, the bytes up to its end.

    What is seen from the middle has no beginning, and so nothing matches there.
    """
    transport = TRANSPORTS.get(conversation.server.protocol)
    seen: set[tuple[Side, int]] = set()
    for side, data in _said(conversation):
        if transport is None:
            return
        whole = transport is not Transport.TCP
        for hit in scan(automaton, transport, side, data, whole=whole):
            for index in automaton.accepts[hit.accept]:
                if (side, index) not in seen:
                    seen.add((side, index))
                    yield side, index, hit.end


def _said(conversation: Conversation) -> Iterator[tuple[Side, bytes]]:
    if not conversation.is_midstream:
        yield Side.CLIENT, conversation.client_head
        yield Side.SERVER, conversation.server_head
    for datagram in conversation.datagrams:
        yield (Side.CLIENT if datagram.from_client else Side.SERVER), datagram.data
