"""Readers of the deployment files, for the tests that compare these files with the code."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from jobs.foundation.settings import Settings
from tests.support.paths import ROOT

INFRA = ROOT / "infra" / "deploy"
KUBERNETES = INFRA / "kubernetes"
OPERATIONS = ROOT / "docs" / "operations.md"
SETTINGS = {f"RETOUCH_{name.upper()}" for name in Settings.model_fields}
SECRETS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "FLOWER_BASIC_AUTH",
    "GRAFANA_PASSWORD",
    "OPENAI_API_KEY",
    "RETOUCH_BROKER_URL",
    "RETOUCH_REDIS_URL",
    "RETOUCH_SECRET_KEY",
    "STEP_API_KEY",
    "VALKEY_PASSWORD",
}
OPTIONAL_SECRETS = {"OPENAI_API_KEY", "STEP_API_KEY"}
"""A deployment needs only the keys of its own models."""

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?P<rest>:[-?](?:[^{}]|\$\{[^{}]*\})*)?\}")


def yaml_files() -> list[Path]:
    """Every YAML file of the deployment."""
    return sorted(path for suffix in ("yaml", "yml") for path in INFRA.rglob(f"*.{suffix}"))


def compose() -> dict[str, Any]:
    """`compose.yaml`, without interpolation."""
    return dict(yaml.safe_load((INFRA / "compose.yaml").read_text()))


def variables(text: str) -> Iterator[tuple[str, str | None]]:
    """Every environment variable in `text`, and its default; None if it is required."""
    for match in _VARIABLE.finditer(text):
        name, rest = match["name"], match["rest"]
        if name:
            yield name, rest[2:] if rest and rest.startswith(":-") else None
            yield from variables(rest or "")


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """Interpolate `text` like compose; KeyError if a required variable is missing."""

    def value(match: re.Match[str]) -> str:
        name, rest = match["name"], match["rest"]
        if not name:
            return "$"
        if environment.get(name):
            return environment[name]
        if rest is None or rest.startswith(":?"):
            raise KeyError(name)
        return interpolated(rest[2:], environment)

    return _VARIABLE.sub(value, text)


def env_file(path: Path) -> dict[str, str]:
    """The variables of a file with `NAME=value` lines and `#` comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def manifests() -> list[dict[str, Any]]:
    """Every object of the kustomization's resources."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    texts = [(KUBERNETES / name).read_text() for name in kustomization["resources"]]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """The manifests of a kind, by name."""
    return {manifest["metadata"]["name"]: manifest for manifest in manifests() if manifest["kind"] == kind}


def option(arguments: list[str], name: str) -> str:
    """The value of an option of a command line."""
    return arguments[arguments.index(name) + 1]


def seconds(duration: str) -> float:
    """Parse a duration of compose in seconds, such as `40s`."""
    assert duration.endswith("s"), duration
    return float(duration[:-1])
