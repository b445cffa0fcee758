# SPDX-License-Identifier: Apache-2.0
"""The ROME day, played on real parts: ``python -m demo``.

An agent in a sandbox of its own does what the agent of the ROME report (arXiv 2512.24873) did:
useful work, then a scan of the internal network, a reverse SSH tunnel, a mining pool, and a few
more ways out. Once in audit mode, where everything arrives; once in enforce mode, where only the
useful work does. The far side of the wire is the judge.
"""
