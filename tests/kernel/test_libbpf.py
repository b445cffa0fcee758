# SPDX-License-Identifier: Apache-2.0
"""The library is found once, or its absence says what to install."""

import ctypes
import errno

import pytest

from agentwall.errors import KernelError, UnsupportedFeatureError
from agentwall.kernel import libbpf


@pytest.fixture
def fresh():
    """Forget the opened library before and after a test that looks for another."""
    libbpf.library.cache_clear()
    yield
    libbpf.library.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_missing_library(monkeypatch):
    """Without libbpf the error names the package to install."""
    monkeypatch.setattr(libbpf, "SONAME", "libbpf.so.none")

    with pytest.raises(UnsupportedFeatureError, match=r"not found; install it .*libbpf1"):
        libbpf.library()


@pytest.mark.usefixtures("fresh")
def test_old_library(monkeypatch):
    """A library that lacks a function is too old, and the error says which is needed."""
    monkeypatch.setitem(libbpf._PROTOTYPES, "bpf_function_to_come", (ctypes.c_int, ()))

    with pytest.raises(UnsupportedFeatureError, match=r"expected libbpf 1\.1 or later"):
        libbpf.library()


def test_negative_result():
    """A negative result is raised with its errno and what was tried."""
    with pytest.raises(KernelError, match=r"^map x: update: no space left") as caught:
        libbpf.check(-errno.ENOSPC, "map x: update")

    assert caught.value.errno == errno.ENOSPC


def test_kernel_internal_errno():
    """The kernel's own errno 524, which strerror does not know, reads as what it means."""
    assert str(libbpf.error(libbpf.ENOTSUPP, "x")) == "x: operation not supported by this kernel"


def test_messages_do_not_reach_stderr(capfd, tmp_path):
    """What libbpf has to say is kept for the error instead of being printed."""
    (tmp_path / "not.o").write_text("not an object")
    libbpf.clear_messages()
    opened = libbpf.library().bpf_object__open_file(str(tmp_path / "not.o").encode(), None)

    assert not opened
    assert "not.o" in " ".join(libbpf.recent_messages())
    assert capfd.readouterr() == ("", "")
