# SPDX-License-Identifier: Apache-2.0
"""A mount namespace of the test's own, for one call."""

from __future__ import annotations

import ctypes
import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

from rig.process import run_checked

T = TypeVar("T")

_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def enter_own_mounts() -> None:
    """Give the calling process mounts of its own, of which nothing comes out.

    Raises:
        OSError: The caller is not root.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run_checked("mount", "--make-rprivate", "/")


def in_own_mounts(call: Callable[[], T]) -> T:
    """Return what *call* returns in a child process with mounts of its own.

    Raises:
        AssertionError: It raised, the message being its traceback, or the child was killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            enter_own_mounts()
            answer = (True, call())
        except BaseException:  # noqa: BLE001 - told to the parent
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    assert text, "the child was killed"
    is_answer, value = pickle.loads(text)
    assert is_answer, value
    return value
