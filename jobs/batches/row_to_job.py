"""A manifest's row becomes a job of its batch, or a refusal that says why."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.batches.manifests.reader import Row
from jobs.edits.rules import CheckedJob, JobRules, draw_seed
from jobs.edits.uploads import UploadedPictures
from jobs.foundation.errors import FieldError, InvalidInput, TooLarge
from jobs.foundation.ids import batch_job_id
from jobs.foundation.input_errors import validated
from jobs.foundation.values import to_ms
from jobs.records.job_codec import encode_input
from jobs.records.job_models import JobRequest, JobSpec

UNSET: dict[str, Any] = JobRequest().model_dump(mode="json")
"""A field's value where neither the row nor the batch sets it."""
MAX_REPORTED = 8
"""Most broken rules that a refusal reports."""


@dataclass(frozen=True)
class Item:
    """A row that can be edited.

    Attributes:
        row: its number.
        model, priority: they name its lane.
        due: it does not start before this moment, in milliseconds since 1970.
        deadline: milliseconds from the write until it must have ended.
        place: digest of the bucket and key of its result; unique within the batch.
        refusal: the start of the JSON of its refusal, up to the value of `errors`.
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
    """A row that is refused, as it is stored: JSON of a `jobs.batches.models.Reject`."""

    row: int
    text: str


class RowReader:
    """Makes a batch's items from rows.

    Args:
        rules: what each row must keep.
        pictures: where the pictures of rows with a `data:` URL are put.
        tenant: whose batch it is.
        batch_id: its id.
        defaults: what its items share, as it is stored.
    """

    def __init__(
        self, rules: JobRules, pictures: UploadedPictures, *, tenant: str, batch_id: str, defaults: Mapping[str, Any]
    ) -> None:
        self._rules = rules
        self._pictures = pictures
        self._tenant = tenant
        self._batch_id = batch_id
        self._defaults = defaults
        self._shared_metadata: Mapping[str, str] = defaults.get("metadata", {})

    def read(self, row: Row) -> Item | Refusal:
        """The row's item, or its refusal.

        Raises:
            Unavailable: the store does not accept a picture that came inside the row.
        """
        try:
            return self._item(row)
        except InvalidInput as error:
            return _refused(row, error.errors)
        except TooLarge as error:
            return _refused(row, [FieldError("image", str(error), "too_large")])

    def _item(self, row: Row) -> Item:
        if row.faults:
            raise InvalidInput(*row.faults)
        given = self._with_shared_metadata(row.fields)
        request = validated(JobRequest.model_validate, {**self._defaults, **given})
        job_id = batch_job_id(self._batch_id, row.number)
        checked = self._rules.check(request, tenant=self._tenant, job_id=job_id)
        uploaded = checked.uploaded
        fields = ["spec", self._spec(request, checked, set(given))]
        if uploaded is not None:
            self._pictures.put(uploaded)
            fields += ["input", encode_input(uploaded.input, JobSpec(image=uploaded.input.image))]
        if request.webhook_url is not None:
            fields += ["tell", "1"]
        return Item(
            row=row.number,
            job_id=job_id,
            custom_id=request.custom_id,
            model=checked.model.name,
            priority=request.priority,
            due=to_ms(request.not_before) if request.not_before else None,
            deadline=int(request.deadline_s * 1000) if request.deadline_s else None,
            place=_digest("/".join(checked.output)),
            refusal=_beginning(row),
            fields=fields,
        )

    def _with_shared_metadata(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        metadata = given.get("metadata")
        if self._shared_metadata and isinstance(metadata, dict):
            return {**given, "metadata": {**self._shared_metadata, **metadata}}
        return given

    def _spec(self, request: JobRequest, checked: CheckedJob, names: set[str]) -> str:
        """The fields `names` of a row that differ from the batch's defaults, and its seed, as JSON.

        Raises:
            InvalidInput: a text of the row is not valid Unicode.
        """
        values = request.model_dump(mode="json", include=names)
        if checked.uploaded is not None:
            values["image"] = checked.uploaded.input.image
        if request.seed is None and (seed := draw_seed(checked.model)) is not None:
            values["seed"] = seed
        own = {name: value for name, value in values.items() if self._defaults.get(name, UNSET[name]) != value}
        if request.seed is not None and "seed" in own:
            own["seed_given"] = True
        spec = json.dumps(own, ensure_ascii=False, separators=(",", ":"))
        try:
            spec.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput.of("", "contains half of a surrogate pair", "encoding") from error
        return spec


def _digest(place: str) -> str:
    return b64encode(hashlib.blake2b(place.encode(), digest_size=9).digest()).decode()


def _beginning(row: Row) -> str:
    custom_id = row.fields.get("custom_id")
    shown = None if custom_id is None else str(custom_id)[:256].encode(errors="replace").decode()
    text = json.dumps({"row": row.number, "line": row.line, "custom_id": shown}, ensure_ascii=False)
    return text[:-1] + ', "errors": '


def _refused(row: Row, faults: Sequence[FieldError]) -> Refusal:
    reported = [
        {
            "field": fault.field[:64].encode(errors="replace").decode(),
            "message": fault.message[:300].encode(errors="replace").decode(),
            "code": fault.code,
        }
        for fault in faults[:MAX_REPORTED]
    ]
    return Refusal(row.number, _beginning(row) + json.dumps(reported, ensure_ascii=False) + "}")
