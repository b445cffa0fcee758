# SPDX-License-Identifier: Apache-2.0
"""Side-by-side measurements of what agentwall costs: ``python -m bench``, as root."""
