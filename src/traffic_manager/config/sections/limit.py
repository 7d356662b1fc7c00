"""`LIMIT_*`: how much callers may ask for and have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Section

Figure = Annotated[int, Field(ge=0, le=1_000_000_000)] | None


class LimitSettings(Section):
    """How much each tenant, and each principal, may ask for and have, where `traffic-manager limits` sets nothing
    else."""

    model_config = ConfigDict(env_prefix="LIMIT_")

    tenant_resolves: Figure = Field(
        None, description="Resolves a second of one tenant's routes, over all workers. Unset: any number."
    )
    tenant_writes: Figure = Field(
        None, description="Changes a second of one tenant's routes; a batch counts once for each operation."
    )
    tenant_lists: Figure = Field(
        None, description="Lists, histories, changes and other reads a second of one tenant's routes."
    )
    tenant_routes: Figure = Field(None, description="Routes that a tenant may have, active or not.")
    tenant_keys: Figure = Field(None, description="Keys in force that may hold in one tenant.")
    principal_resolves: Figure = Field(
        None, description="Resolves a second of one owner of keys, by all of their keys together."
    )
    principal_writes: Figure = Field(None, description="Changes a second of one owner of keys.")
    principal_lists: Figure = Field(None, description="Lists and other reads a second of one owner of keys.")
    nodes: Annotated[int, Field(ge=1, le=1000)] = Field(
        1,
        description="How many nodes share these limits: each worker has its part, and with Redis more of what "
        "others do not need.",
    )
    failed_sign_ins: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        600,
        description="Wrong credentials a minute from one address, at each worker; then 429 instead of 401.",
    )
