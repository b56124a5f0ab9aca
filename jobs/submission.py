"""From a request to a kept, planned job: every rule is checked, and the picture is in the bucket, before it is written.

A refused submit leaves nothing behind: not a record, not an object.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError

from jobs.addresses import check_url
from jobs.catalogue import ModelSpec
from jobs.data_urls import decode_data_url
from jobs.domain import Domain
from jobs.errors import FieldError, InputRejected, InvalidInput, RetouchError, TooLarge, Unavailable
from jobs.ids import new_job_id
from jobs.models import Input, JobRequest, JobSpec
from jobs.object_names import check_readable, check_writable, input_key, output_location, parse_s3_url
from jobs.pictures import probe
from jobs.plan_records import Draft, Idempotency
from jobs.settings import Settings
from jobs.tracing import trace_id_of
from jobs.webhook_urls import check_webhook_url

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Submission:
    """A job that was accepted.

    Attributes:
        job_id: the job, durable.
        replayed: it is the job of an earlier submit with the same Idempotency-Key; nothing was written.
        warnings: what was accepted and has no effect, one sentence each.
    """

    job_id: str
    replayed: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Kept:
    """An uploaded picture, checked and ready to be put."""

    data: bytes
    input: Input
    key: str


def parse_json(body: bytes) -> JobRequest:
    """A request written as JSON; a number in quotes is no number.

    Raises:
        InvalidInput: naming every field of a wrong type, and every unknown one.
    """
    try:
        return JobRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid_input(error.errors()) from error
    except OverflowError as error:  # a moment that the calendar does not hold once it is in UTC
        raise InvalidInput.of("not_before", "a moment between the years 1 and 9999", "out_of_range") from error


def parse_fields(fields: Mapping[str, object]) -> JobRequest:
    """A request written as a form's or a table's texts, read as the types that the fields have.

    Raises:
        InvalidInput: naming every field that is not of its type, and every unknown one.
    """
    try:
        return JobRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid_input(error.errors()) from error
    except OverflowError as error:
        raise InvalidInput.of("not_before", "a moment between the years 1 and 9999", "out_of_range") from error


def invalid_input(faults: Sequence[Any], *, skip: int = 0) -> InvalidInput:
    """Pydantic's findings (`ValidationError.errors()`) in our words; none repeats what was submitted.

    Args:
        faults: as pydantic, or FastAPI, lists them.
        skip: leading parts of each location that are not the submitter's (`query`, `body`).
    """
    found = []
    for fault in faults:
        name = ".".join(str(part) for part in fault["loc"][skip:] if part != "[key]")
        message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        if fault["type"] == "extra_forbidden":
            message = "no such field"
        found.append(FieldError(name, message, str(fault["type"])))
    return InvalidInput(*found)


def submit(
    domain: Domain,
    request: JobRequest,
    *,
    tenant: str,
    upload: bytes | None = None,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
) -> Submission:
    """Check a request, keep its picture, write the job and start what may start. When this returns the job is durable.

    Args:
        domain: what the process works with.
        request: what was submitted; its types hold already.
        tenant: whose job it is.
        upload: the picture's bytes, where they came with the request.
        idempotency_key: 1 to 255 printable ASCII characters.
        traceparent: W3C trace context of the request; one that is none is left out.

    Raises:
        InvalidInput: naming every field that breaks a rule.
        TooLarge: the picture has over `settings.max_upload_bytes`.
        IdempotencyMismatch, QuotaExceeded: as the planner says.
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    if idempotency_key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", idempotency_key):
        raise InvalidInput.of("Idempotency-Key", "1 to 255 printable ASCII characters")
    job_id = new_job_id()
    context = domain.spans.traceparent(traceparent)
    model, kept = _checked(domain, request, tenant, job_id, upload)
    spec = JobSpec.model_validate(
        request.model_dump()
        | {
            "model": model.name,
            "seed": _seed(model) if request.seed is None and model.default_seed else request.seed,
            "seed_given": request.seed is not None,
            "image": kept.input.image if kept else request.image,
            "traceparent": context if trace_id_of(context) else None,
        }
    )
    idempotency = None
    if idempotency_key is not None:
        digest = hashlib.sha256(idempotency_key.encode()).hexdigest()
        idempotency = Idempotency(digest, fingerprint(request, kept.input.sha256 if kept else None))
    done_id = _written(domain, Draft(job_id, spec, _input(spec, kept)), tenant, kept, idempotency)
    try:
        domain.broker.dispatch()
    except (RedisError, Unavailable) as error:
        # The job is durable and every worker's pulse plans: what failed now costs a moment, not the answer.
        log.warning("submit.not_dispatched", job_id=done_id, error=str(error))
    return Submission(done_id, replayed=done_id != job_id, warnings=tuple(warnings(request, model)))


def fingerprint(request: JobRequest, picture_sha256: str | None) -> str:
    """SHA-256 (hex) of what a request means: the same for the same fields and picture, in any order and form."""
    meaning = request.model_dump(mode="json", exclude_defaults=True)
    if picture_sha256 is not None:
        meaning["image"] = f"sha256:{picture_sha256}"
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def item_faults(
    request: JobRequest, model: ModelSpec, settings: Settings, tenant: str, job_id: str
) -> list[FieldError]:
    """Every rule that a batch's item breaks: those of a single submit, all but what only its picture's bytes tell."""
    faults = [*model.faults(request), *_timing_faults(request)]
    faults += _output_key_faults(request, settings, tenant, job_id)
    if request.webhook_url is not None:
        faults += _webhook_faults(request.webhook_url, settings)
    image = request.image
    if image is None:
        faults.append(FieldError("image", "required: https://…, s3://bucket/key or data:image/png;base64,…", "missing"))
    elif image[:5].lower() != "data:":
        faults += _address_faults(image, settings, tenant)
    return faults


def keep_data_url(domain: Domain, request: JobRequest, model: ModelSpec, tenant: str, job_id: str) -> Input:
    """Put the picture of a `data:` address into the bucket, over itself where it is there already.

    Raises:
        InvalidInput, TooLarge: as for a single submit.
        Unavailable: the store does not take it.
    """
    data = _bytes_at_hand(request, None, domain.settings)
    kept = _probed(data, model, domain.settings, tenant, job_id) if data is not None else None
    if data is None or kept is None:
        raise InvalidInput.of("image", "no data: address")
    media_type = kept.input.media_type or ""
    domain.bucket.put(domain.bucket.name, kept.key, data, media_type=media_type, sha256=kept.input.sha256)
    return kept.input


def warnings(request: JobRequest, model: ModelSpec) -> list[str]:
    """What `model` accepts of `request` although it has no effect."""
    found = [
        f"{name} has no effect with model {model.name}"
        for name, rule in model.parameters.items()
        if not rule.send and getattr(request, name) is not None
    ]
    # Without guidance (cfg_scale 1.0, which is StepFun's default) the negative prompt takes no part in the edit.
    if model.dialect == "stepfun" and request.negative_prompt and (request.cfg_scale or 1.0) == 1.0:
        found.append("negative_prompt has no effect at cfg_scale 1.0: set a cfg_scale over 1.0")
    return found


def _checked(
    domain: Domain, request: JobRequest, tenant: str, job_id: str, upload: bytes | None
) -> tuple[ModelSpec, _Kept | None]:
    """The model, and the picture where its bytes are at hand; every broken rule is found before one is told."""
    settings = domain.settings
    faults: list[FieldError] = []
    model: ModelSpec | None = None
    try:
        model = domain.catalogue.get(request.model)
        faults += model.faults(request)
    except InvalidInput as error:
        faults += error.errors
    faults += _timing_faults(request)
    faults += _output_key_faults(request, settings, tenant, job_id)
    if request.webhook_url is not None:
        faults += _webhook_faults(request.webhook_url, settings)
    kept: _Kept | None = None
    try:
        data = _bytes_at_hand(request, upload, settings)
        if data is None:
            faults += _address_faults(request.image or "", settings, tenant)
        else:
            kept = _probed(data, model, settings, tenant, job_id)
    except InvalidInput as error:
        faults += error.errors
    if faults or model is None:
        raise InvalidInput(*faults)
    return model, kept


def _written(domain: Domain, draft: Draft, tenant: str, kept: _Kept | None, idempotency: Idempotency | None) -> str:
    try:
        if kept is not None:
            bucket, media_type = domain.bucket.name, kept.input.media_type or ""
            domain.bucket.put(bucket, kept.key, kept.data, media_type=media_type, sha256=kept.input.sha256)
        submitted = domain.planner.submit([draft], tenant=tenant, idempotency=idempotency)
    except RetouchError:
        # Redis' own errors are not caught on purpose: the job may have been written, and then needs its picture.
        if kept is not None:
            _forget(domain, kept)
        raise
    written = submitted.job_ids[0]
    if kept is not None and written != draft.job_id:
        _forget(domain, kept)
    return written


def _forget(domain: Domain, kept: _Kept) -> None:
    try:
        domain.bucket.delete(domain.bucket.name, kept.key)
    except RetouchError as error:
        log.warning("submit.input_not_deleted", key=kept.key, error=str(error))


def _seed(model: ModelSpec) -> int:
    rule = model.parameters["seed"]
    low = int(rule.min) if rule.min is not None else 0
    high = int(rule.max) if rule.max is not None else 2**31 - 1
    return low + secrets.randbelow(high - low + 1)


def _input(spec: JobSpec, kept: _Kept | None) -> Input:
    return kept.input if kept else Input(image=spec.image or "")


def _bytes_at_hand(request: JobRequest, upload: bytes | None, settings: Settings) -> bytes | None:
    image = request.image
    if upload is not None:
        if image is not None:
            raise InvalidInput.of("image", "given twice: send a file or an address", "repeated")
        data = upload
    elif image is None:
        wanted = "required: https://…, s3://bucket/key, data:image/png;base64,… or a file part"
        raise InvalidInput.of("image", wanted, "missing")
    elif image[:5].lower() == "data:":
        if (len(image) - image.find(",") - 1) // 4 * 3 > settings.max_upload_bytes + 2:
            raise TooLarge(f"image has over {settings.max_upload_bytes:,} bytes")
        try:
            data = decode_data_url(image, settings.max_upload_bytes)
        except ValueError as error:
            raise InvalidInput.of("image", str(error)) from error
    else:
        return None
    if len(data) > settings.max_upload_bytes:
        raise TooLarge(f"image has {len(data):,} bytes: at most {settings.max_upload_bytes:,}")
    return data


def _probed(data: bytes, model: ModelSpec | None, settings: Settings, tenant: str, job_id: str) -> _Kept | None:
    if model is None:  # which rules hold is not known
        return None
    try:
        picture = probe(data, max_pixels=model.max_width * model.max_height)
    except InputRejected as error:
        raise InvalidInput.of("image", error.message, error.code) from error
    if fault := model.image_fault(picture.media_type, picture.width, picture.height, len(data)):
        raise InvalidInput.of("image", fault, "out_of_range")
    key = input_key(tenant, job_id, picture.media_type)
    known = Input(
        image=f"s3://{settings.s3_bucket}/{key}",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
    )
    return _Kept(data, known, key)


def _address_faults(image: str, settings: Settings, tenant: str) -> list[FieldError]:
    if image.startswith("s3://"):
        try:
            bucket, key = parse_s3_url(image)
            check_readable(tenant, bucket, key, buckets=settings.buckets, default_bucket=settings.s3_bucket)
        except ValueError as error:
            return [FieldError("image", str(error), "url")]
        except InvalidInput as error:
            return list(error.errors)
        return []
    if re.match(r"https?:", image, re.IGNORECASE):
        return _url_faults("image", image, settings)
    return [FieldError("image", "https://…, s3://bucket/key or data:image/png;base64,…", "unsupported")]


def _url_faults(field: str, url: str, settings: Settings) -> list[FieldError]:
    try:
        check_url(url, networks=settings.private_networks)
    except ValueError as error:
        return [FieldError(field, str(error), "url")]
    return []


def _webhook_faults(url: str, settings: Settings) -> list[FieldError]:
    try:
        check_webhook_url(url, settings)
    except ValueError as error:
        return [FieldError("webhook_url", str(error), "url")]
    return []


def _timing_faults(request: JobRequest) -> list[FieldError]:
    if request.not_before is None or request.deadline_s is None:
        return []
    if request.not_before <= datetime.now(UTC) + timedelta(seconds=request.deadline_s):
        return []
    return [FieldError("deadline_s", "is over before not_before: it counts from the submit", "out_of_range")]


def _output_key_faults(request: JobRequest, settings: Settings, tenant: str, job_id: str) -> list[FieldError]:
    try:
        # The extension is known with the result alone, and decides nothing about whose place it is.
        bucket, key = output_location(request, job_id, "image/jpeg", settings.s3_bucket, settings.allowed_buckets)
        check_writable(tenant, bucket, key, buckets=settings.buckets, default_bucket=settings.s3_bucket)
    except InvalidInput as error:
        return list(error.errors)
    return []
