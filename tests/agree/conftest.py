# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the kernel tests that these need too."""

from kernel.conftest import compile_bpf

__all__ = ["compile_bpf"]
