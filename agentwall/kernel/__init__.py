# SPDX-License-Identifier: Apache-2.0
"""The loaded BPF object: libbpf binding, features, maps, events."""
