# SPDX-License-Identifier: Apache-2.0
"""The sinks that a configuration asks for, and what is told once an event has its id."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import urllib.request
from dataclasses import replace

import pytest
from rig.keeping import bare_config
from rig.ports import reserved_port
from rig.process import wait_until
from rig.records import detection, flow
from rig.small_disk import small_disk

from agentwall.daemon.config import LogSettings
from agentwall.daemon.sinks import Sinks, new_daemon_id, open_sinks
from agentwall.errors import HostError


@pytest.fixture
def config(tmp_path):
    """A configuration with a log of the test's own."""
    return bare_config(log=LogSettings(path=tmp_path / "log" / "events.jsonl"))


def settle(sinks: Sinks) -> None:
    """Have everything written, and told."""
    sinks.flush()
    wait_until(lambda: sinks.writer.waiting == 0, what="the log")
    sinks.flush()


def test_what_is_recognised_is_told_with_its_id(config):
    """That of the log's line, and of detections only."""
    sinks = open_sinks(config, None)
    told: list[tuple[object, str | None]] = []
    sinks.on_detection = lambda *one: told.append(one)
    sinks.write(flow())
    sinks.write(detection())
    settle(sinks)
    described = sinks.describe()
    sinks.close()
    lines = [json.loads(line) for line in config.log.path.read_text().splitlines()]

    assert [each["kind"] for each in lines] == ["flow", "detection"]
    assert told == [(detection(), lines[1]["id"])]
    assert (described["written"], described["failed"], described["waiting"]) == (2, 0, 0)
    assert "journal" not in described


def test_nobody_needs_to_be_told(config):
    """Without a listener nothing is missing; closing writes what is left."""
    sinks = open_sinks(config, None)
    sinks.write(detection())
    sinks.close()

    assert config.log.path.read_text().count("\n") == 1


def test_a_full_disk_still_tells(tmp_path):
    """What the log could not write was recognised all the same: it has no id."""
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        sinks = open_sinks(bare_config(log=LogSettings(path=disk / "events.jsonl")), None)
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(bytes(64 << 10))
        told: list[tuple[object, str | None]] = []
        sinks.on_detection = lambda *one: told.append(one)
        sinks.write(detection())
        settle(sinks)
        described = sinks.describe()
        sinks.close()

    assert told == [(detection(), None)]
    assert (described["written"], described["failed"]) == (0, 1)


def test_metrics_are_served_where_it_is_asked_for(config):
    """On the address that the configuration says; nothing is published before the first look."""
    with reserved_port() as port:
        sinks = open_sinks(replace(config, metrics=f"127.0.0.1:{port}"), None)
        sinks.figures.count(flow())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        is_scraped = sinks.is_scraped
        sinks.close()

        assert is_scraped
        assert "agentwall" in text
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60)


@pytest.mark.parametrize("metrics", ["127.0.0.1:{port}", "[::ffff:127.0.0.1]:{port}"])
def test_an_address_that_is_taken(config, metrics):
    """The daemon does not start half: the line says which address."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(HostError, match=str(taken.getsockname()[1])),
    ):
        open_sinks(replace(config, metrics=metrics.format(port=taken.getsockname()[1])), None)


def test_a_log_that_cannot_be_opened(config, tmp_path):
    """Its directory is a file, say."""
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="file"):
        open_sinks(replace(config, log=LogSettings(path=tmp_path / "file" / "e.jsonl")), None)


def test_the_ids_of_daemons_sort_by_time():
    """And two of one second differ."""
    first, second = new_daemon_id(), new_daemon_id()

    assert re.fullmatch(r"d\d{8}T\d{6}Z-[0-9a-f]{6}", first)
    assert first != second
