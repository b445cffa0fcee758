# SPDX-License-Identifier: Apache-2.0
"""Addresses, ports and reserved blocks: the vocabulary. Pure."""
