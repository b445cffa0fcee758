# SPDX-License-Identifier: Apache-2.0
"""Flow records and verdicts: the values that travel. Pure."""
