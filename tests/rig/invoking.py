# SPDX-License-Identifier: Apache-2.0
"""``agentwall`` within this process: quicker than one of its own, for what reads and prints."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path

from agentwall.cli.main import main


def invoke(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``agentwall WORDS`` and return what it printed, as of a process that ran in a pipe."""
    with io.BytesIO() as kept_out, io.BytesIO() as kept_err:
        out, err = (io.TextIOWrapper(kept, encoding="utf-8") for kept in (kept_out, kept_err))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in words])
        out.flush()
        err.flush()
        texts = [kept.getvalue().decode() for kept in (kept_out, kept_err)]
    return subprocess.CompletedProcess(words, code, *texts)
