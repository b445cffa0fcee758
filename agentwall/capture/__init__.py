# SPDX-License-Identifier: Apache-2.0
"""Capture files: read to conversations, and judged as live traffic is."""
