"""Encode a job's record for its Redis hash, and decode it. Defaults are not stored, to save memory.

Fields: lane, state, spec (JSON), input (JSON), output (JSON), error (JSON), checkpoint (JSON), attempt, tries, lost,
log (a line of JSON for each attempt), claimed, started, finished, deadline (ms), worker, cost (millionths of a dollar),
tell ('1': some endpoint subscribes to its events), queued (ms: returned to its lane), again_after (number of attempts
before the user's retry).
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jobs.foundation.ids import batch_of, made_at
from jobs.foundation.job_states import State
from jobs.foundation.values import moment, to_ms
from jobs.records.job_models import AttemptRecord, Checkpoint, Input, Job, JobError, JobSpec, Output, Record
from jobs.records.output_key import default_key

MICRO = 1_000_000


def to_json(record: Record) -> str:
    """Encode a record without its defaults: the store may have hundreds of thousands of jobs."""
    return record.model_dump_json(exclude_defaults=True)


def decode_spec(
    record: Mapping[str, str], defaults: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None
) -> JobSpec:
    """Decode a job's spec. It overrides the batch's `defaults`; the `changes` of the batch's approval override both."""
    own = json.loads(record["spec"])
    spec = {**(defaults or {}), **own, **(changes or {})}
    # A random seed is stored in the row itself, so a seed from elsewhere is the user's.
    if "seed" in (changes or {}) or ("seed" not in own and spec.get("seed") is not None):
        spec["seed_given"] = True
    return JobSpec.model_validate(spec)


def encode_input(picture: Input, spec: JobSpec) -> str:
    """Encode a job's input: a list without names. Its address is left out if it equals the spec's."""
    sha256 = b64encode(bytes.fromhex(picture.sha256)).decode() if picture.sha256 else None
    facts = [sha256, picture.bytes, picture.media_type, picture.width, picture.height]
    return json.dumps(facts if picture.image == spec.image else [*facts, picture.image], separators=(",", ":"))


def decode_input(record: Mapping[str, str], spec: JobSpec) -> Input:
    """Decode a job's input."""
    if "input" not in record:
        return Input(image=spec.image or "")
    sha256, size, media_type, width, height, *image = json.loads(record["input"])
    return Input(
        image=image[0] if image else spec.image or "",
        sha256=b64decode(sha256).hex() if sha256 else None,
        bytes=size,
        media_type=media_type,
        width=width,
        height=height,
    )


def encode_output(output: Output, spec: JobSpec, job_id: str) -> str:
    """Encode a job's result. The default key is left out: it follows from the job's ids."""
    has_default_key = output.key == default_key(spec.custom_id, job_id, output.media_type)
    return output.model_dump_json(exclude_defaults=True, exclude={"key"} if has_default_key else None)


def decode_output(text: str, spec: JobSpec, job_id: str) -> Output:
    """Decode a job's result."""
    stored = json.loads(text)
    if "key" not in stored:
        stored["key"] = default_key(spec.custom_id, job_id, stored["media_type"])
    return Output.model_validate(stored)


def decode_checkpoint(record: Mapping[str, str]) -> Checkpoint | None:
    """Decode the checkpoint; None if there is none."""
    text = record.get("checkpoint")
    return Checkpoint.model_validate_json(text) if text else None


def encode_attempt(attempt: AttemptRecord) -> str:
    """Encode a line of the attempt log. Times are whole milliseconds, which are shorter than RFC 3339."""
    entry = attempt.model_dump(mode="json", exclude_defaults=True, exclude={"started_at", "finished_at"})
    for name, at in (("started_ms", attempt.started_at), ("finished_ms", attempt.finished_at)):
        if at is not None:
            entry[name] = to_ms(at)
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


def decode_attempts(log: str) -> list[AttemptRecord]:
    """Decode the attempt log. Its times are milliseconds (`started_ms`) or RFC 3339 (`started_at`)."""
    attempts = []
    # splitlines would also split at U+2028, which a provider's message may contain.
    for line in filter(None, log.split("\n")):
        entry = json.loads(line)
        for name in ("started", "finished"):
            if f"{name}_ms" in entry:
                entry[f"{name}_at"] = moment(entry.pop(f"{name}_ms"))
        attempts.append(AttemptRecord.model_validate(entry))
    return attempts


def decode_job(
    job_id: str,
    tenant: str,
    record: Mapping[str, str],
    defaults: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Job:
    """Decode a job. Its output has no URL yet; `defaults` and `changes` are those of its batch."""
    spec = decode_spec(record, defaults, changes)
    output, error = record.get("output"), record.get("error")
    attempts = decode_attempts(record.get("log", ""))
    return Job(
        **_constant_fields(job_id, tenant, spec),
        state=record["state"],
        input=decode_input(record, spec),
        output=decode_output(output, spec, job_id) if output else None,
        error=JobError.model_validate_json(error) if error else None,
        attempts=attempts,
        cost_usd=int(record.get("cost", 0)) / MICRO,
        started_at=moment(record["started"]) if "started" in record else next(iter(attempts), _NO_ATTEMPT).started_at,
        finished_at=_finished_at(record, attempts),
    )


def new_job(job_id: str, tenant: str, spec: JobSpec, picture: Input, state: State) -> Job:
    """Create the job that the API shows right after the submit."""
    return Job(**_constant_fields(job_id, tenant, spec), state=state, input=picture)


def _constant_fields(job_id: str, tenant: str, spec: JobSpec) -> dict[str, Any]:
    """The fields of a job that do not change."""
    return {
        **spec.model_dump(exclude={"image", "traceparent", "seed_given"}),
        "id": job_id,
        "tenant": tenant,
        "model": spec.model or "",
        "batch_id": batch_of(job_id),
        "created_at": made_at(job_id),
    }


_NO_ATTEMPT = AttemptRecord(number=0, outcome="failed")


def _finished_at(record: Mapping[str, str], attempts: list[AttemptRecord]) -> datetime | None:
    """A succeeded job's end is stored only in its attempt log, to save memory."""
    if "finished" in record:
        return moment(record["finished"])
    return attempts[-1].finished_at if attempts and record["state"] == State.SUCCEEDED else None
