# SPDX-License-Identifier: Apache-2.0
"""Inside TLS: finds the libraries that sandboxes map, and probes their calls."""
