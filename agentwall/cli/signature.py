# SPDX-License-Identifier: Apache-2.0
"""``agentwall signature``: list the signatures in force, and test them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import click
from rich import box
from rich.table import Table
from rich.text import Text

from agentwall.cli import failures
from agentwall.cli.control import console, show
from agentwall.cli.signature_captures import search_captures
from agentwall.detect.signature import Indicators, Signature, SignatureSet
from agentwall.detect.signature_check import Checked, check_signatures, check_together
from agentwall.detect.signature_load import LoadedSignatures
from agentwall.errors import PolicyError
from agentwall.host.signature_files import (
    default_directories,
    load_signature_files,
    read_signatures,
)
from agentwall.policy.model import DETECT_DEFAULTS, Response
from agentwall.policy.values import WITH_DIALECTS
from agentwall.sinks.escape import printable

EXIT_FAILED = 1
SCHEMA = "agentwall.signatures/1"
HAND_OVER = "decode"
"""Stands for a response where a match only makes the decoders look."""

_STYLES = {Response.BLOCK.value: "bold red", Response.ALERT.value: "yellow", HAND_OVER: "dim"}
_COLUMNS = (
    *("id", "class", "dialect", "protocol", "direction", "confidence", "maturity"),
    "by default",
)
_SPARED = ("direction", "protocol", "class", "maturity", "confidence", "dialect")
"""Columns that a terminal too narrow for all goes without, one after the other."""
_GAP = 3
"""Between two columns."""

_extra = click.option(
    "--signatures",
    "extra",
    multiple=True,
    metavar="PATH",
    help="A file of further signatures, or a directory of them. Repeatable.",
)


@click.group()
def signature() -> None:
    """List and test what mining, tunnels and the like are recognised by."""


@signature.command()
@click.option(
    "--class",
    "cls",
    type=click.Choice([each.value for each in WITH_DIALECTS]),
    help="Only signatures of this class.",
)
@_extra
@click.option(
    "--format", "style", type=click.Choice(["pretty", "json"]), default="pretty", show_default=True
)
def ls(cls: str | None, extra: tuple[str, ...], style: str) -> None:
    """List the signatures in force: shipped, of this site, and --signatures.

    The last column says what follows on a match in a flow that a policy permits, where the policy
    says nothing else under detect.
    """
    found = read_signatures(extra)
    signatures = [each for each in found.signatures if cls in (None, each.cls.value)]
    indicators = [each for each in found.indicators if cls in (None, each.cls.value)]
    if style == "json":
        click.echo(json.dumps(_document(found, signatures, indicators), indent=2))
    else:
        _print_table(signatures, indicators)


def response_by_default(found: Signature | Indicators) -> str:
    """Return what follows on a match without a word of ``detect``: block, alert or decode."""
    if isinstance(found, Signature):
        if found.hand_over:
            return HAND_OVER
        if found.blocks:
            return DETECT_DEFAULTS[found.cls].value
    return Response.ALERT.value


def _document(
    found: SignatureSet, signatures: Sequence[Signature], indicators: Sequence[Indicators]
) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "digest": found.digest,
        "signatures": [
            {
                **_described(each),
                "protocol": each.transport.value,
                "direction": _direction(each),
                "maturity": each.maturity.value,
                "hand_over": each.hand_over,
                "description": each.description,
                "references": list(each.references),
                "pattern": each.pattern,
            }
            for each in signatures
        ],
        "indicators": [
            {**_described(each), "dated": each.dated, "names": list(each.names)}
            for each in indicators
        ],
    }


def _described(each: Signature | Indicators) -> dict[str, object]:
    return {
        "id": each.id,
        "class": each.cls.value,
        "dialect": each.dialect,
        "severity": each.severity.label,
        "confidence": each.confidence.value,
        "by_default": response_by_default(each),
        "file": each.where.path,
        "line": each.where.line,
    }


def _direction(each: Signature) -> str:
    return each.sides[0].value if len(each.sides) == 1 else "either"


def _print_table(signatures: Sequence[Signature], indicators: Sequence[Indicators]) -> None:
    rows = [
        _row(each, each.transport.value, _direction(each), each.maturity.value)
        for each in signatures
    ]
    rows += [_row(names, "name", "client", names.dated) for names in indicators]
    columns = _fitting(rows, console().width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        *described, response = (row[column] for column in columns)
        table.add_row(*map(Text, described), Text(response, style=_STYLES[response]))
    show([table])
    listed = sum(len(each.names) for each in indicators)
    click.echo(f"{len(signatures)} signatures, {listed} names in {len(indicators)} lists")
    if left_out := [column for column in _COLUMNS if column not in columns]:
        click.echo(f"left out in this terminal: {', '.join(left_out)}")


def _row(
    each: Signature | Indicators, protocol: str, direction: str, maturity: str
) -> dict[str, str]:
    described = (each.id, each.cls.value, each.dialect, protocol, direction, each.confidence.value)
    cells = (*described, maturity, response_by_default(each))
    return {column: printable(cell) for column, cell in zip(_COLUMNS, cells, strict=True)}


def _fitting(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return the columns that go side by side into *width* whole; the first and the last always."""
    columns = list(_COLUMNS)
    for spared in _SPARED:
        widest = (max(map(len, (name, *(row[name] for row in rows)))) for name in columns)
        if sum(widest) + _GAP * (len(columns) - 1) <= width:
            break
        columns.remove(spared)
    return columns


@signature.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_extra
def test(paths: tuple[str, ...], extra: tuple[str, ...]) -> int:
    """Run signatures on their examples, or on captures.

    PATH is a signature file, a directory of them, or a capture; without any, the signatures in
    force are tested. Captures are searched for the signatures in force, and for those named here.
    Exits with 1 if one finds what it must not or the other way round, with 2 if a file is invalid.
    """
    files = [path for path in paths if _holds_signatures(path)]
    captures = [path for path in paths if path not in files]
    code = 0
    if files or not captures:
        loaded = load_signature_files(files or [*default_directories(), *extra])
        code = EXIT_FAILED if report_checks(loaded) else 0
    if captures:
        found = search_captures(captures, read_signatures((*extra, *files)))
        code = max(code, found)
    return code


def _holds_signatures(path: str) -> bool:
    if os.path.isdir(path):
        return any(name.endswith(".yaml") for name in os.listdir(path))
    return path.endswith((".yaml", ".yml"))


def check_file(path: str) -> int:
    """Check the signature file *path*, for ``policy check``; return the exit code."""
    try:
        loaded = load_signature_files([path])
    except PolicyError as err:
        return failures.report(err)
    return failures.EXIT_USAGE if report_checks(loaded, f"{path}: ") else 0


def report_checks(loaded: LoadedSignatures, prefix: str = "") -> int:
    """Check signatures and say what came of it, behind *prefix*; return how many faults it has.

    Where each is sound, all together have to fit into the kernel's table as well.
    """
    checked = list(check_signatures(loaded))
    failed = [error for each in checked for error in each.failures]
    if not failed:
        try:
            check_together(loaded.signatures)
        except PolicyError as err:
            failed.append(err)
    failures.print_lines(str(error) for error in failed)
    click.echo(printable(f"{prefix}{summary(checked)}"))
    return len(failed)


def summary(checked: Sequence[Checked]) -> str:
    """Return how many signatures there are and how many of their rows passed."""
    rows = sum(each.rows for each in checked)
    passed = sum(each.passed for each in checked)
    return f"{len(checked)} signatures and lists, {passed} of {rows} examples as they should be"
