# SPDX-License-Identifier: Apache-2.0
"""Where reports go: JSONL, console, and the reports made from them."""
