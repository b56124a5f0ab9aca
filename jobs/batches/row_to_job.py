"""Converts a row of a manifest into a job of its batch, or into a reject with the reasons."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.batches.manifests.reader import Row
from jobs.batches.models import Reject
from jobs.edits.rules import CheckedJob, JobRules, draw_seed
from jobs.edits.uploads import UploadedPictures
from jobs.foundation.errors import FieldError, InvalidInput, TooLarge
from jobs.foundation.ids import batch_job_id
from jobs.foundation.input_errors import validated
from jobs.foundation.values import to_ms
from jobs.records.job_codec import encode_input
from jobs.records.job_models import JobRequest, JobSpec

UNSET: dict[str, Any] = JobRequest().model_dump(mode="json")
"""The value of each field that neither the row nor the batch sets."""
MAX_REPORTED = 8
"""Errors of one reject."""
MAX_CUSTOM_ID = 256
MAX_FIELD_NAME = 64
MAX_MESSAGE = 300


@dataclass(frozen=True)
class Item:
    """A valid row.

    Attributes:
        row: its number, from 1.
        line: its first line in the manifest, from 1.
        model, priority: they name its lane.
        due_ms: it does not start before this moment, in milliseconds since 1970.
        deadline_ms: milliseconds from the write until it must have ended.
        output_digest: digest of the bucket and key of its result; unique within the batch.
        fields: field, text, field, text, … of its record.
    """

    row: int
    line: int
    job_id: str
    custom_id: str | None
    model: str
    priority: str
    due_ms: int | None
    deadline_ms: int | None
    output_digest: str
    fields: list[str]


class RowReader:
    """Converts the rows of one batch.

    Args:
        rules: of every job.
        pictures: where the pictures of rows with a `data:` URL are put.
        tenant: owner of the batch.
        batch_id: its id.
        defaults: of its items, as stored.
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

    def read(self, row: Row) -> Item | Reject:
        """The row's item, or its reject.

        Raises:
            Unavailable: the bucket does not accept a picture that the row contains.
        """
        try:
            return self._item(row)
        except InvalidInput as error:
            return _reject(row, error.errors)
        except TooLarge as error:
            return _reject(row, [FieldError("image", str(error), "too_large")])

    def _item(self, row: Row) -> Item:
        if row.faults:
            raise InvalidInput(*row.faults)
        row_fields = self._with_shared_metadata(row.fields)
        request = validated(JobRequest.model_validate, {**self._defaults, **row_fields})
        job_id = batch_job_id(self._batch_id, row.number)
        checked = self._rules.check(request, tenant=self._tenant, job_id=job_id)
        uploaded = checked.uploaded
        fields = ["spec", self._spec(request, checked, set(row_fields))]
        if uploaded is not None:
            self._pictures.put(uploaded)
            fields += ["input", encode_input(uploaded.input, JobSpec(image=uploaded.input.image))]
        if request.webhook_url is not None:
            fields += ["tell", "1"]
        return Item(
            row=row.number,
            line=row.line,
            job_id=job_id,
            custom_id=request.custom_id,
            model=checked.model.name,
            priority=request.priority,
            due_ms=to_ms(request.not_before) if request.not_before else None,
            deadline_ms=int(request.deadline_s * 1000) if request.deadline_s else None,
            output_digest=_digest("/".join(checked.output)),
            fields=fields,
        )

    def _with_shared_metadata(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        metadata = fields.get("metadata")
        if self._shared_metadata and isinstance(metadata, dict):
            return {**fields, "metadata": {**self._shared_metadata, **metadata}}
        return fields

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


def _digest(location: str) -> str:
    return b64encode(hashlib.blake2b(location.encode(), digest_size=9).digest()).decode()


def _reject(row: Row, faults: Sequence[FieldError]) -> Reject:
    custom_id = row.fields.get("custom_id")
    return Reject(
        row=row.number,
        line=row.line,
        custom_id=None if custom_id is None else _storable(str(custom_id)[:MAX_CUSTOM_ID]),
        errors=[
            {
                "field": _storable(fault.field[:MAX_FIELD_NAME]),
                "message": _storable(fault.message[:MAX_MESSAGE]),
                "code": fault.code,
            }
            for fault in faults[:MAX_REPORTED]
        ],
    )


def _storable(text: str) -> str:
    """The text with `?` in place of each half of a surrogate pair, which UTF-8 cannot hold."""
    return text.encode(errors="replace").decode()
