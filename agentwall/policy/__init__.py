# SPDX-License-Identifier: Apache-2.0
"""Policies: model, strict loading, evaluation, compilation to rule tables. Pure but for load."""
