"""Typed settings, read from the environment (prefix `RETOUCH_`).

A process creates its settings at the start and passes them on. No module keeps settings.
"""

import ipaddress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.foundation.errors import ConfigurationError

DAY_S = 86_400

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(BaseSettings):
    """The settings of a process. Secrets are masked in repr and logs."""

    model_config = SettingsConfigDict(env_prefix="RETOUCH_", frozen=True, extra="ignore")

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """URL of Redis 7.2+ or Valkey, which stores the records and the plan."""
    broker_url: SecretStr | None = None
    """URL of Celery's broker; if unset, `redis_url`."""
    key_prefix: str = "rt:"
    """The prefix of all keys in Redis."""
    s3_endpoint_url: str | None = None
    """URL of the S3-compatible store; if unset, AWS."""
    s3_public_endpoint_url: str | None = None
    """URL of the same store for users, in presigned links; if unset, `s3_endpoint_url`."""
    s3_bucket: str = "retouch"
    s3_region: str = "us-east-1"
    allowed_buckets: Annotated[tuple[str, ...], NoDecode] = ()
    """Further buckets that submitters may read from and write to, comma-separated."""
    public_url: str = "http://127.0.0.1:8000"
    """URL of the API for users, in the links of responses."""
    config: Path | None = None
    """Path of `retouch.toml`, the model catalogue."""
    allow_private_addresses: str = "false"
    """`true`, `false`, or a comma-separated list of networks that requests on a user's behalf may reach."""
    retention_days: float = Field(default=30, gt=0)
    """How long the record of a finished job is stored, in days."""
    lease_s: float = Field(default=30, ge=3)
    """How long a running job's lease lasts without a heartbeat, in seconds. A killed worker delays jobs this long."""
    max_upload_bytes: int = Field(default=32 * 1024 * 1024, gt=0)
    secret_key: SecretStr | None = None
    """Key that encrypts stored webhook secrets and header values; if unset, they are stored in plain text."""
    webhook_timeout_s: float = Field(default=15, gt=0, le=60)
    """Timeout of the whole exchange with a webhook's receiver, in seconds."""
    webhook_ports: str = "80,443,8000-9999"
    """Ports that may receive webhooks, comma-separated, ranges with `-`. Allowed private networks may use any port."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of a worker's metrics; if unset, it serves none. The API serves its metrics at `/metrics`."""
    metrics_address: str = "127.0.0.1"
    """Address on which a worker serves its metrics."""
    metrics_tenants: bool = False
    """Whether metrics count jobs by tenant. Every reader of `/metrics` then sees the tenants' names."""
    task_events: bool = True
    """Whether workers send Flower an event for each task."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"

    @field_validator("allowed_buckets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allow_private_addresses")
    @classmethod
    def _networks_parse(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("webhook_ports")
    @classmethod
    def _ports_parse(cls, value: str) -> str:
        parse_ports(value)
        return value

    @cached_property
    def port_ranges(self) -> tuple[range, ...]:
        """Ports that may receive webhooks."""
        return parse_ports(self.webhook_ports)

    @cached_property
    def private_networks(self) -> tuple[Network, ...]:
        """Private networks that requests may reach; empty by default."""
        return parse_networks(self.allow_private_addresses)

    @property
    def retention_s(self) -> float:
        """How long the record of a finished job is stored, in seconds."""
        return self.retention_days * DAY_S

    @property
    def broker(self) -> str:
        """The broker's URL, secrets included."""
        return (self.broker_url or self.redis_url).get_secret_value()

    @property
    def buckets(self) -> tuple[str, ...]:
        """All buckets that a request may name, the default bucket first."""
        return (self.s3_bucket, *self.allowed_buckets)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read `ALLOW_PRIVATE_ADDRESSES`: `false` is none, `true` is all, else networks separated by commas.

    Raises:
        ValueError: a part is not a network.
    """
    word = text.strip().lower()
    if word in {"", "false", "0", "no"}:
        return ()
    if word in {"true", "1", "yes"}:
        return (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in word.split(",") if part.strip())


def parse_ports(text: str) -> tuple[range, ...]:
    """Read `WEBHOOK_PORTS`: ports and ranges such as `8000-9999`, separated by commas.

    Raises:
        ValueError: a part is neither.
    """
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = part.partition("-")
        ports = range(int(first), int(last or first) + 1)
        if not ports or ports[0] < 1 or ports[-1] > 65535:
            raise ValueError(f"{part!r} is neither a port nor a range of ports")
        ranges.append(ports)
    return tuple(ranges)


def load_settings() -> Settings:
    """Settings from the environment.

    Raises:
        ConfigurationError: a variable is invalid; the message names it and the fault.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"RETOUCH_{'.'.join(str(part) for part in e['loc']).upper()}: {e['msg']}" for e in error.errors()
        )
        raise ConfigurationError(faults) from error
