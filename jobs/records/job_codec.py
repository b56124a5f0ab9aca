"""How a job's record lies in its Redis hash, and back. JSON where a field has parts; nothing that equals its default.

Fields: lane, state, spec (JSON), input (JSON), output (JSON), error (JSON), checkpoint (JSON), attempt, tries, lost,
log (a line of JSON an attempt), claimed, started, finished, deadline (ms), worker, cost (millionths of a dollar),
tell ('1': its events are wanted), queued (ms: put back on its lane), again_after (attempts before the user's retry).
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
    """A record without what equals its default: memory is counted by the hundred thousand jobs."""
    return record.model_dump_json(exclude_defaults=True)


def decode_spec(
    record: Mapping[str, str], defaults: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None
) -> JobSpec:
    """A job's spec; a batch's shared defaults stand where its own says nothing, its approval's changes over all."""
    own = json.loads(record["spec"])
    spec = {**(defaults or {}), **own, **(changes or {})}
    # A seed that the row does not have itself is the user's: one that was drawn stands in the row.
    if "seed" in (changes or {}) or ("seed" not in own and spec.get("seed") is not None):
        spec["seed_given"] = True
    return JobSpec.model_validate(spec)


def encode_input(known: Input, spec: JobSpec) -> str:
    """What is known of a job's picture: a list, without names, and its address only where that is not the spec's."""
    sha256 = b64encode(bytes.fromhex(known.sha256)).decode() if known.sha256 else None
    facts = [sha256, known.bytes, known.media_type, known.width, known.height]
    return json.dumps(facts if known.image == spec.image else [*facts, known.image], separators=(",", ":"))


def decode_input(record: Mapping[str, str], spec: JobSpec) -> Input:
    """What is known of a job's picture."""
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
    """A result; not its key where that is the default one, which its job's names tell."""
    usual = output.key == default_key(spec.custom_id, job_id, output.media_type)
    return output.model_dump_json(exclude_defaults=True, exclude={"key"} if usual else None)


def decode_output(text: str, spec: JobSpec, job_id: str) -> Output:
    """A job's result."""
    stored = json.loads(text)
    if "key" not in stored:
        stored["key"] = default_key(spec.custom_id, job_id, stored["media_type"])
    return Output.model_validate(stored)


def decode_checkpoint(record: Mapping[str, str]) -> Checkpoint | None:
    """The provider's recorded answer, if there is one."""
    text = record.get("checkpoint")
    return Checkpoint.model_validate_json(text) if text else None


def encode_attempt(attempt: AttemptRecord) -> str:
    """A line of the attempt log: moments as whole milliseconds, which are shorter than RFC 3339."""
    entry = attempt.model_dump(mode="json", exclude_defaults=True, exclude={"started_at", "finished_at"})
    for name, at in (("started_ms", attempt.started_at), ("finished_ms", attempt.finished_at)):
        if at is not None:
            entry[name] = to_ms(at)
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


def decode_attempts(log: str) -> list[AttemptRecord]:
    """The attempt log; scripts write moments as milliseconds (`started_ms`), workers as RFC 3339."""
    attempts = []
    # Not splitlines: it would split at U+2028 and the like, which a provider's message may have.
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
    """A job as the API shows it, its output's URL still missing; `defaults` and `changes` are its batch's."""
    spec = decode_spec(record, defaults, changes)
    output, error = record.get("output"), record.get("error")
    attempts = decode_attempts(record.get("log", ""))
    return Job(
        **_shown(job_id, tenant, spec),
        state=record["state"],
        input=decode_input(record, spec),
        output=decode_output(output, spec, job_id) if output else None,
        error=JobError.model_validate_json(error) if error else None,
        attempts=attempts,
        cost_usd=int(record.get("cost", 0)) / MICRO,
        started_at=moment(record["started"]) if "started" in record else next(iter(attempts), _NONE).started_at,
        finished_at=_finished_at(record, attempts),
    )


def new_job(job_id: str, tenant: str, spec: JobSpec, picture: Input, state: State) -> Job:
    """A job as the API shows it right after it was written."""
    return Job(**_shown(job_id, tenant, spec), state=state, input=picture)


def _shown(job_id: str, tenant: str, spec: JobSpec) -> dict[str, Any]:
    """The fields of a job that never change."""
    return {
        **spec.model_dump(exclude={"image", "traceparent", "seed_given"}),
        "id": job_id,
        "tenant": tenant,
        "model": spec.model or "",
        "batch_id": batch_of(job_id),
        "created_at": made_at(job_id),
    }


_NONE = AttemptRecord(number=0, outcome="failed")


def _finished_at(record: Mapping[str, str], attempts: list[AttemptRecord]) -> datetime | None:
    """A success keeps no moment beside its log's: records are counted by the hundred thousand."""
    if "finished" in record:
        return moment(record["finished"])
    return attempts[-1].finished_at if attempts and record["state"] == State.SUCCEEDED else None
