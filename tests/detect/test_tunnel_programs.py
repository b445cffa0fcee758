# SPDX-License-Identifier: Apache-2.0
"""What real programs say first is found by the tunnel signatures: OpenSSH, curl, OpenVPN.

Each is pointed at a socket on loopback that answers as little as it has to.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from detect.test_tunnel_signatures import found
from rig.process import run_checked, running

from agentwall.detect.signature import Side, Transport

WAIT_S = 60.0


def tool(name: str) -> str:
    """Return the path of *name*, or skip."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.skip(f"{name} is not installed: its package is in tools/packages.txt")
    return path


def said_over_tcp(command: list[str], log: Path, *answers: bytes) -> bytes:
    """Run *command* with PORT replaced by that of a listener; give one answer a read.

    Each of these programs gives what it says in one piece, which loopback does not take apart.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        port = str(listener.getsockname()[1])
        with running([part.replace("PORT", port) for part in command], log=log):
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(WAIT_S)
                said = peer.recv(4096)
                for answer in answers:
                    peer.sendall(answer)
                    said += peer.recv(4096)
    return said


def said_over_udp(command: list[str], log: Path) -> bytes:
    """Run *command* with PORT replaced by that of a socket, and return its first datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(WAIT_S)
        port = str(receiver.getsockname()[1])
        with running([part.replace("PORT", port) for part in command], log=log):
            return receiver.recv(4096)


def test_openssh(tmp_path):
    """OpenSSH's client, on a port that is not its own."""
    command = [tool("ssh"), "-F", "none", "-o", "BatchMode=yes", "-p", "PORT", "nobody@127.0.0.1"]

    said = said_over_tcp(command, tmp_path / "log")

    assert "ssh-banner" in found(Transport.TCP, Side.CLIENT, said, blocking=True)


@pytest.mark.parametrize(
    ("options", "answers", "name"),
    [
        (["--socks5", "127.0.0.1:PORT"], [b"\x05\x00"], "socks5-request"),
        (["--socks5-hostname", "a:b@127.0.0.1:PORT"], [b"\5\2", b"\1\0"], "socks5-request"),
        (["--socks4", "127.0.0.1:PORT"], [], "socks4-request"),
        (["--socks4a", "127.0.0.1:PORT"], [], "socks4a-request"),
        (["--proxytunnel", "--proxy", "127.0.0.1:PORT"], [], "http-connect"),
    ],
)  # fmt: skip
def test_curl_asks_a_proxy(tmp_path, options, answers, name):
    """curl, asking each kind of proxy."""
    target = "192.0.2.1" if name == "socks4-request" else "host.example"
    if options[0] == "--socks5":
        target = "192.0.2.1"
    command = [tool("curl"), "--silent", "--max-time", "60", *options, f"http://{target}/"]

    said = said_over_tcp(command, tmp_path / "log", *answers)

    assert name in found(Transport.TCP, Side.CLIENT, said)


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--tls-auth", "shared", "1"],
        ["--tls-auth", "shared", "1", "--auth", "SHA256"],
        ["--tls-auth", "shared", "1", "--auth", "SHA512"],
        ["--tls-crypt", "shared"],
    ],
)
def test_openvpn(tmp_path, transport, options):
    """OpenVPN's client, with each way that hides or signs its first packet."""
    program, certificate, key = tool("openvpn"), tmp_path / "certificate", tmp_path / "key"
    shared = tmp_path / "shared"
    subprocess.run([program, "--genkey", "secret", shared], check=True, capture_output=True)
    run_checked(
        *("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=test"),
        *("-keyout", key, "-out", certificate),
    )
    command = [
        *(program, "--client", "--dev", "null", "--nobind", "--remote", "127.0.0.1", "PORT"),
        *("--ca", str(certificate), "--cert", str(certificate), "--key", str(key)),
        *(str(shared) if option == "shared" else option for option in options),
    ]
    if transport is Transport.UDP:
        said = said_over_udp([*command, "--proto", "udp"], tmp_path / "log")
    else:
        said = said_over_tcp([*command, "--proto", "tcp-client"], tmp_path / "log")

    names = found(transport, Side.CLIENT, said, blocking=True)
    assert {name.partition("-")[0] for name in names} == {"openvpn"}
