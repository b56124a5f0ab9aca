"""The models that requests may name: dialect, address, limits, parameter ranges, price. Read from TOML."""

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
    """The rule for one parameter of a model.

    Attributes:
        type: type of the value.
        min, max: inclusive bounds of a number; `max` of a string is its maximum length in characters.
        choices: the allowed strings; empty: any.
        wire: its name in the provider's form; None: the same name.
        send: whether it is sent to the provider; a parameter that is accepted but has no effect is not sent.
    """

    type: Literal["integer", "number", "string", "boolean"]
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    wire: str | None = None
    send: bool = True

    def fault(self, value: object) -> str | None:
        """A message about an invalid `value`; None if it is valid."""
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
    """An edit model of the catalogue.

    Attributes:
        name: its name in requests.
        provider_model: its name at the provider; by default `name`.
        base_url: the endpoint is `{base_url}/images/edits`.
        api_key_env: the workers' environment variable with the API key; "" for an endpoint without a key.
        concurrency: maximum of calls in flight, by the account's tier.
        rpm: maximum of starts a minute; 0: no limit.
        timeout_s: timeout of a whole call, in seconds.
        price_usd: price of one delivered image, in US dollars.
        max_attempts: counted attempts after which a job fails.
        result_ttl_s: how long a result's URL is valid, in seconds.
        keeps_size: whether a result must have its input's size.
        image_field: name of the file part in the form.
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
            raise ValueError("base_url must start with https:// or http://")
        return self

    @property
    def endpoint(self) -> str:
        """Absolute URL of the edit endpoint."""
        return f"{self.base_url.rstrip('/')}/images/edits"

    @property
    def default_seed(self) -> bool:
        """Whether a job without a seed gets a random one at submit, so that every retry requests the same picture."""
        return "seed" in self.parameters

    def api_key(self, environment: Mapping[str, str] = os.environ) -> SecretStr | None:
        """The API key; None if the endpoint needs none or the variable is not set."""
        value = environment.get(self.api_key_env, "") if self.api_key_env else ""
        return SecretStr(value) if value else None

    def faults(self, parameters: EditParameters) -> list[FieldError]:
        """One error for each of this model's rules that `parameters` break."""
        found = []
        prompt = parameters.prompt
        if prompt is None or not prompt.strip():
            found.append(FieldError("prompt", "required: describe the edit", "missing"))
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
                supported = ", ".join(sorted(self.parameters)) or "none"
                found.append(
                    FieldError(name, f"model {self.name} does not support it (it supports: {supported})", "unsupported")
                )
            elif fault := rule.fault(value):
                found.append(FieldError(name, fault, "out_of_range"))
        return found

    def image_fault(self, media_type: str, width: int, height: int, size: int) -> str | None:
        """A message about a picture that the model refuses; None if it accepts it.

        Args:
            media_type: the picture's media type.
            width: in pixels.
            height: in pixels.
            size: in bytes.
        """
        if media_type not in self.media_types:
            return f"is {media_type}: model {self.name} accepts {', '.join(self.media_types)}"
        if size > self.max_image_bytes:
            return f"has {size:,} bytes: model {self.name} accepts at most {self.max_image_bytes:,}"
        if width > self.max_width or height > self.max_height:
            return f"is {width}x{height}: model {self.name} accepts at most {self.max_width}x{self.max_height}"
        if min(width, height) < self.min_side:
            return f"is {width}x{height}: model {self.name} accepts no side under {self.min_side}"
        if self.max_ratio and max(width, height) > self.max_ratio * min(width, height):
            return f"is {width}x{height}: model {self.name} accepts no side over {self.max_ratio:g} times the other"
        return None


class Catalogue:
    """The models by name, and the default model."""

    def __init__(self, models: Iterable[ModelSpec], default_model: str) -> None:
        self.models = {model.name: model for model in models}
        self.default_model = default_model
        if default_model not in self.models:
            raise ConfigurationError(
                f"default_model {default_model!r} is not in the catalogue ({', '.join(self.models)})"
            )

    def get(self, name: str | None) -> ModelSpec:
        """The model with this name; None: the default model.

        Raises:
            InvalidInput: there is no such model; the message lists the models.
        """
        spec = self.models.get(name or self.default_model)
        if spec is None:
            raise InvalidInput.of(
                "model", f"unknown model {name!r}; the models are: {', '.join(self.models)}", "unknown"
            )
        return spec


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Read the built-in catalogue and the operator's `retouch.toml`, which overrides it.

    Raises:
        ConfigurationError: the file is invalid; the message names the file, the model and the field.
    """
    ours = tomllib.loads(files("jobs.catalogue").joinpath("catalogue.toml").read_text())
    theirs: dict[str, Any] = {}
    if path is not None:
        try:
            theirs = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigurationError(f"{path}: no such file; see RETOUCH_CONFIG") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        unknown = set(theirs) - {"default_model", "models"}
        if unknown:
            raise ConfigurationError(f"{path}: unknown entry {min(unknown)!r}; use default_model and [models.NAME]")
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
