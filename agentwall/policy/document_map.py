# SPDX-License-Identifier: Apache-2.0
"""What all maps of a policy file have in common, as pydantic models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Map(BaseModel):
    """A map with the keys of the model and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
