"""`OTEL_*`: whether there are traces, of which requests, and who is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Section


class TracesSettings(Section):
    """Traces, by the variables of OpenTelemetry."""

    model_config = ConfigDict(env_prefix="OTEL_")

    traces_exporter: Literal["none", "otlp"] = Field(
        "none", description="`otlp`: tell a collector of requests, as traces; see docs/traces.md."
    )
    sdk_disabled: bool = Field(False, description="No traces, whatever `OTEL_TRACES_EXPORTER` says.")
    exporter_otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/@]+(/[^@]*)?$")] = Field(
        "http://localhost:4318",
        description="The collector's URL, without a user or a secret in it, to which `/v1/traces` is added.",
    )
    exporter_otlp_protocol: Literal["http/protobuf"] = Field(
        "http/protobuf", description="How it is spoken to: by no other protocol."
    )
    exporter_otlp_headers: SecretStr | None = Field(
        None, description="Headers of what it is sent, `name=value,...`, such as a vendor's key."
    )
    service_name: str = Field("traffic-manager", description="What the spans say that they are of.")
    resource_attributes: str | None = Field(
        None, description="What else they say, `name=value,...`, such as `deployment.environment.name=prod`."
    )
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        "parentbased_always_on",
        description="Which requests are traced. `parentbased_*`: those that are part of a trace, as their "
        "`traceparent` says, the others as the rest of the name says.",
    )
    traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="The share that `*traceidratio` takes."
    )

    @property
    def is_on(self) -> bool:
        """True if there are traces."""
        return self.traces_exporter == "otlp" and not self.sdk_disabled

    @property
    def ratio(self) -> float:
        """Which share of the requests is traced for which no other span decides."""
        if self.traces_sampler.endswith("traceidratio"):
            return self.traces_sampler_arg
        return 1.0 if self.traces_sampler.endswith("always_on") else 0.0

    @property
    def heeds_parent(self) -> bool:
        """True if a request that is part of a trace is traced as that says."""
        return self.traces_sampler.startswith("parentbased_")

    @property
    def traces_url(self) -> str:
        """Where spans are sent."""
        return f"{self.exporter_otlp_endpoint.rstrip('/')}/v1/traces"

    @property
    def headers(self) -> str:
        """The headers that go with them."""
        return self.exporter_otlp_headers.get_secret_value() if self.exporter_otlp_headers else ""
