"""The models that may be named: dialect, address, limits, parameter ranges, price. Read from TOML."""

import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator

from jobs.foundation.errors import ConfigurationError, FieldError, InvalidInput
from jobs.records.job_models import EditParameters, Record

Dialect = Literal["stepfun", "openai"]
PARAMETERS = tuple(name for name in EditParameters.model_fields if name != "prompt")


class ParameterRule(Record):
    """One parameter a model takes.

    Attributes:
        type: of the value.
        min, max: bounds of a number, both allowed; `max` of a string is its length in characters.
        choices: the only strings allowed, where given.
        wire: its name in the endpoint's form, where that differs from ours.
        send: whether the endpoint is told; a parameter that is accepted and has no effect is not sent.
    """

    type: Literal["integer", "number", "string", "boolean"]
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    wire: str | None = None
    send: bool = True

    def fault(self, value: object) -> str | None:
        """What is wrong with `value`, in words for its submitter; None if nothing."""
        if isinstance(value, str):
            if self.max is not None and len(value) > self.max:
                return f"at most {self.max:g} characters, this has {len(value)}"
            if self.choices and value not in self.choices:
                return f"one of {', '.join(self.choices)}"
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = self.min, self.max
            if (low is not None and value < low) or (high is not None and value > high) or math.isnan(value):
                return f"between {low:g} and {high:g}" if low is not None and high is not None else "out of range"
        return None


class ModelSpec(Record):
    """A named edit model from the catalogue.

    Attributes:
        name: what submitters call it.
        provider_model: what the endpoint calls it; the same unless given.
        base_url: the endpoint is `{base_url}/images/edits`.
        api_key_env: variable of the workers' environment that holds the key; "" for an endpoint without one.
        concurrency: most in flight, by the account's tier.
        rpm: most starts a minute; 0 = no limit.
        timeout_s: one call, all of it, in seconds.
        price_usd: of one delivered image.
        max_attempts: tries that count before a job fails.
        result_ttl_s: how long a result's URL can be fetched, in seconds.
        keeps_size: whether a result must have its input's size.
        image_field: name of the form's file part.
        default_seed: whether a job without a seed gets one at submit.
    """

    name: str
    dialect: Dialect
    base_url: str
    provider_model: str = ""
    api_key_env: str = ""
    concurrency: int = Field(ge=1, le=100_000)
    rpm: float = Field(ge=0)
    timeout_s: float = Field(default=120, gt=0)
    connect_timeout_s: float = Field(default=10, gt=0)
    price_usd: float = Field(default=0, ge=0)
    max_attempts: int = Field(default=6, ge=1)
    prompt_max: int = Field(ge=1)
    response_format: Literal["url", "b64_json", ""] = ""
    result_ttl_s: float = Field(default=7200, gt=0)
    keeps_size: bool = False
    image_field: str = "image"
    media_types: tuple[str, ...]
    max_image_bytes: int = Field(default=32 * 1024 * 1024, gt=0)
    max_width: int = Field(gt=0)
    max_height: int = Field(gt=0)
    min_side: int = Field(default=1, gt=0)
    max_ratio: float = Field(default=0, ge=0)
    max_result_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    parameters: dict[str, ParameterRule] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known_parameters(self) -> "ModelSpec":
        unknown = set(self.parameters) - set(PARAMETERS)
        if unknown:
            raise ValueError(f"parameters.{min(unknown)} is not one of {', '.join(PARAMETERS)}")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url begins with https:// or http://")
        return self

    @property
    def endpoint(self) -> str:
        """Absolute URL of the edit endpoint."""
        return f"{self.base_url.rstrip('/')}/images/edits"

    @property
    def default_seed(self) -> bool:
        """A model that takes a seed gets one at submit, so that every retry asks for the same picture."""
        return "seed" in self.parameters

    def api_key(self, environment: Mapping[str, str] = os.environ) -> SecretStr | None:
        """The key, if its variable is set; None where the endpoint needs none or it is missing."""
        value = environment.get(self.api_key_env, "") if self.api_key_env else ""
        return SecretStr(value) if value else None

    def faults(self, parameters: EditParameters) -> list[FieldError]:
        """Every rule of this model that `parameters` break, in the words of its submitter."""
        found = []
        prompt = parameters.prompt
        if prompt is None or not prompt.strip():
            found.append(FieldError("prompt", "required: say what the edit shall be", "missing"))
        elif len(prompt) > self.prompt_max:
            found.append(
                FieldError("prompt", f"at most {self.prompt_max} characters, this has {len(prompt)}", "too_long")
            )
        for name in PARAMETERS:
            value = getattr(parameters, name)
            if value is None:
                continue
            rule = self.parameters.get(name)
            if rule is None:
                takes = ", ".join(sorted(self.parameters)) or "none"
                found.append(FieldError(name, f"model {self.name} does not take it (it takes: {takes})", "unsupported"))
            elif fault := rule.fault(value):
                found.append(FieldError(name, fault, "out_of_range"))
        return found

    def image_fault(self, media_type: str, width: int, height: int, size: int) -> str | None:
        """What is wrong with a picture of this type, size in pixels and size in bytes; None if nothing."""
        if media_type not in self.media_types:
            return f"is {media_type}: model {self.name} takes {', '.join(self.media_types)}"
        if size > self.max_image_bytes:
            return f"has {size:,} bytes: model {self.name} takes at most {self.max_image_bytes:,}"
        if width > self.max_width or height > self.max_height:
            return f"is {width}x{height}: model {self.name} takes at most {self.max_width}x{self.max_height}"
        if min(width, height) < self.min_side:
            return f"is {width}x{height}: model {self.name} takes no side under {self.min_side}"
        if self.max_ratio and max(width, height) > self.max_ratio * min(width, height):
            return f"is {width}x{height}: model {self.name} takes no side over {self.max_ratio:g} times the other"
        return None


class Catalogue:
    """The models by name, and which one is meant when none is named."""

    def __init__(self, models: Iterable[ModelSpec], default_model: str) -> None:
        self.models = {model.name: model for model in models}
        self.default_model = default_model
        if default_model not in self.models:
            raise ConfigurationError(
                f"default_model {default_model!r} is no model of the catalogue ({', '.join(self.models)})"
            )

    def get(self, name: str | None) -> ModelSpec:
        """The model of that name, or the default one.

        Raises:
            InvalidInput: naming `model` and the models there are.
        """
        spec = self.models.get(name or self.default_model)
        if spec is None:
            raise InvalidInput.of("model", f"unknown model {name!r}; there is: {', '.join(self.models)}", "unknown")
        return spec


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Read the built-in catalogue and, over it, the operator's `retouch.toml`.

    Raises:
        ConfigurationError: naming the file, the model and the field that is wrong.
    """
    ours = tomllib.loads(files("jobs.catalogue").joinpath("catalogue.toml").read_text())
    theirs: dict[str, Any] = {}
    if path is not None:
        try:
            theirs = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigurationError(f"{path}: no such file (RETOUCH_CONFIG names it)") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        unknown = set(theirs) - {"default_model", "models"}
        if unknown:
            raise ConfigurationError(
                f"{path}: unknown entry {min(unknown)!r}; it takes default_model and [models.NAME]"
            )
    entries = theirs.get("models") or ours["models"]
    models = [_model(name, entry, ours, path) for name, entry in entries.items()]
    default = theirs.get("default_model") or (next(iter(entries)) if theirs.get("models") else ours["default_model"])
    return Catalogue(models, default)


def _model(name: str, entry: object, ours: Mapping[str, Any], path: Path | None) -> ModelSpec:
    where = f"{path or 'catalogue'}: [models.{name}]"
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where} is not a table")
    dialect = entry.get("dialect", ours["models"].get(name, {}).get("dialect"))
    known = ours["dialects"].get(dialect)
    if known is None:
        raise ConfigurationError(f"{where} dialect: one of {', '.join(ours['dialects'])}")
    merged = {
        **known,
        **ours["models"].get(name, {}),
        **entry,
        "name": name,
        "parameters": {**known.get("parameters", {}), **entry.get("parameters", {})},
    }
    merged.setdefault("provider_model", name)
    try:
        return ModelSpec.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{where} {field}: {first['msg']}") from error
