# SPDX-License-Identifier: Apache-2.0
"""What bytes on the wire say: protocols read by rules that ``bpf/`` shares. Pure."""
