# SPDX-License-Identifier: Apache-2.0
"""The life of a sandbox behind the wall: set up, watch, report, tear down."""
