# SPDX-License-Identifier: Apache-2.0
"""Cgroups, namespaces, processes and privileges of this host."""
