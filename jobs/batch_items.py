"""A manifest's row becomes a job of its batch, or a refusal that says why."""

import hashlib
import json
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from jobs.catalogue import ModelSpec
from jobs.domain import Domain
from jobs.encoding import encode_input, to_ms
from jobs.errors import FieldError, InvalidInput, TooLarge
from jobs.ids import batch_job_id
from jobs.manifests import Row
from jobs.models import Input, JobRequest, JobSpec
from jobs.object_names import output_location
from jobs.submission import invalid_input, item_faults, keep_data_url

UNSAID: dict[str, Any] = JobRequest().model_dump(mode="json")
"""What a field is where neither the row nor the batch says anything."""
MOST_TOLD = 8
"""Broken rules that a refusal tells; a row that breaks more is not read to its end by anybody."""


@dataclass(frozen=True)
class Item:
    """A row that can be edited.

    Attributes:
        row: its number.
        model, priority: they name its lane.
        due: not before this moment, ms since 1970.
        deadline: ms it has from when it is written.
        place: digest of where its result goes; two items have never the same.
        refusal: the refusal it would get, up to its `errors`, JSON.
        fields: field, text, field, text, … of its record.
    """

    row: int
    job_id: str
    custom_id: str | None
    model: str
    priority: str
    due: int | None
    deadline: int | None
    place: str
    refusal: str
    fields: list[str]


@dataclass(frozen=True)
class Refusal:
    """A row that is refused, as it is stored: JSON of a `jobs.batch_models.Reject`."""

    row: int
    text: str


class Items:
    """Makes a batch's items from rows.

    Args:
        domain: what the process works with.
        tenant: whose batch it is.
        batch_id: its id.
        defaults: what its items share, as it is stored.
    """

    def __init__(self, domain: Domain, tenant: str, batch_id: str, defaults: Mapping[str, Any]) -> None:
        self._domain = domain
        self._tenant = tenant
        self._batch_id = batch_id
        self._defaults = defaults
        self._shared_metadata: Mapping[str, str] = defaults.get("metadata", {})

    def read(self, row: Row) -> Item | Refusal:
        """The row's item, or why there is none.

        Raises:
            Unavailable: the store does not take a picture that came inside the row.
        """
        try:
            return self._item(row)
        except InvalidInput as error:
            return _refused(row, error.errors)
        except TooLarge as error:
            return _refused(row, [FieldError("image", str(error), "too_large")])

    def _request(self, given: Mapping[str, Any]) -> JobRequest:
        try:
            return JobRequest.model_validate({**self._defaults, **given})
        except ValidationError as error:
            raise invalid_input(error.errors()) from error
        except OverflowError as error:
            raise InvalidInput.of("not_before", "a moment between the years 1 and 9999", "out_of_range") from error

    def _item(self, row: Row) -> Item:
        if row.faults:
            raise InvalidInput(*row.faults)
        given = row.fields
        metadata = given.get("metadata")
        if self._shared_metadata and isinstance(metadata, dict):
            given = {**given, "metadata": {**self._shared_metadata, **metadata}}
        request = self._request(given)
        model = self._domain.catalogue.get(request.model)
        job_id = batch_job_id(self._batch_id, row.number)
        faults = item_faults(request, model, self._domain.settings, self._tenant, job_id)
        if faults:
            raise InvalidInput(*faults)
        kept: Input | None = None
        if request.image is not None and request.image[:5].lower() == "data:":
            kept = keep_data_url(self._domain, request, model, self._tenant, job_id)
        said = request.model_dump(mode="json", include=set(given))
        if kept is not None:
            said["image"] = kept.image
        if request.seed is None and model.default_seed:
            said["seed"] = _seed(model)
        own = {name: value for name, value in said.items() if self._defaults.get(name, UNSAID[name]) != value}
        if request.seed is not None and "seed" in own:
            own["seed_given"] = True
        spec = json.dumps(own, ensure_ascii=False, separators=(",", ":"))
        try:
            spec.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput.of("", "holds half of a character", "encoding") from error
        fields = ["spec", spec]
        if kept is not None:
            fields += ["input", encode_input(kept, JobSpec(image=kept.image))]
        if request.webhook_url is not None:
            fields += ["tell", "1"]
        return Item(
            row=row.number,
            job_id=job_id,
            custom_id=request.custom_id,
            model=model.name,
            priority=request.priority,
            due=to_ms(request.not_before) if request.not_before else None,
            deadline=int(request.deadline_s * 1000) if request.deadline_s else None,
            place=self._place(request, job_id),
            refusal=_beginning(row),
            fields=fields,
        )

    def _place(self, request: JobRequest, job_id: str) -> str:
        settings = self._domain.settings
        bucket, key = output_location(request, job_id, "image/jpeg", settings.s3_bucket, settings.allowed_buckets)
        return b64encode(hashlib.blake2b(f"{bucket}/{key}".encode(), digest_size=9).digest()).decode()


def _seed(model: ModelSpec) -> int:
    rule = model.parameters["seed"]
    low = int(rule.min) if rule.min is not None else 0
    high = int(rule.max) if rule.max is not None else 2**31 - 1
    return low + secrets.randbelow(high - low + 1)


def _beginning(row: Row) -> str:
    custom_id = row.fields.get("custom_id")
    shown = None if custom_id is None else str(custom_id)[:256].encode(errors="replace").decode()
    text = json.dumps({"row": row.number, "line": row.line, "custom_id": shown}, ensure_ascii=False)
    return text[:-1] + ', "errors": '


def _refused(row: Row, faults: Sequence[FieldError]) -> Refusal:
    told = [
        {
            "field": fault.field[:64].encode(errors="replace").decode(),
            "message": fault.message[:300].encode(errors="replace").decode(),
            "code": fault.code,
        }
        for fault in faults[:MOST_TOLD]
    ]
    return Refusal(row.number, _beginning(row) + json.dumps(told, ensure_ascii=False) + "}")
