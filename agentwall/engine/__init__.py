# SPDX-License-Identifier: Apache-2.0
"""Events in, commands out. Pure: no I/O, no clock."""
