"""From a request for a batch to a kept manifest and a durable record. Its rows are read afterwards, by a worker."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError

from jobs.addresses import check_url
from jobs.audience import batch_fields
from jobs.batch_models import BatchOptions, BatchRequest
from jobs.bucket_streams import put_pieces
from jobs.domain import Domain
from jobs.encoding import MICRO
from jobs.errors import FieldError, InvalidInput, NotFound, RetouchError, Unavailable
from jobs.events import check_filters
from jobs.ids import batch_job_id, new_batch_id
from jobs.models import JobRequest
from jobs.object_names import check_readable, manifest_key, parse_s3_url
from jobs.plan_records import Idempotency
from jobs.submission import invalid_input, item_faults
from jobs.tracing import trace_id_of
from jobs.webhook_urls import check_webhook_url

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchSubmission:
    """A batch that was accepted; `replayed` where it is that of an earlier submit with the same Idempotency-Key."""

    batch_id: str
    replayed: bool = False


@dataclass(frozen=True)
class Upload:
    """A manifest that came with the request.

    Attributes:
        name: of the file.
        pieces: its bytes.
        sha256: of them, in hexadecimal.
    """

    name: str
    pieces: Iterable[bytes]
    sha256: str


def parse_batch(body: bytes) -> BatchRequest:
    """A request written as JSON.

    Raises:
        InvalidInput: naming every field of a wrong type, and every unknown one.
    """
    try:
        return BatchRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_input(error.errors()) from error
    except OverflowError as error:
        raise InvalidInput.of("not_before", "a moment between the years 1 and 9999", "out_of_range") from error


def parse_options(fields: dict[str, Any]) -> BatchOptions:
    """The fields beside an uploaded manifest, from a form's texts; `defaults` and other objects are JSON.

    Fields of a job stand for defaults: `prompt` is `defaults.prompt`.

    Raises:
        InvalidInput: naming every field that is not of its type, and every unknown one.
    """
    options: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for name, value in fields.items():
        if name in {"defaults", "metadata", "webhook_events"} and isinstance(value, str):
            try:
                options[name] = json.loads(value)
            except ValueError as error:
                raise InvalidInput.of(name, "must be JSON", "json") from error
        elif name in BatchOptions.model_fields:
            options[name] = value
        else:
            defaults[name] = value
    if defaults:
        given = options.get("defaults", {})
        options["defaults"] = {**defaults, **given} if isinstance(given, dict) else given
    try:
        return BatchOptions.model_validate(options)
    except ValidationError as error:
        raise invalid_input(error.errors()) from error
    except OverflowError as error:
        raise InvalidInput.of("not_before", "a moment between the years 1 and 9999", "out_of_range") from error


def submit_batch(
    domain: Domain,
    request: BatchOptions,
    *,
    tenant: str,
    upload: Upload | None = None,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
) -> BatchSubmission:
    """Check a request, keep its manifest, write the batch and let it be read. When this returns the batch is durable.

    Args:
        domain: what the process works with.
        request: a `BatchRequest`, or the options beside `upload`.
        tenant: whose batch it is.
        upload: a manifest that came with the request.
        idempotency_key: 1 to 255 printable ASCII characters.
        traceparent: W3C trace context of the request; one that is none is left out.

    Raises:
        InvalidInput: naming every field that breaks a rule.
        IdempotencyMismatch: the key came before with another request.
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    if idempotency_key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", idempotency_key):
        raise InvalidInput.of("Idempotency-Key", "1 to 255 printable ASCII characters")
    batch_id = new_batch_id()
    defaults = _defaults(domain, request, tenant, batch_id)
    _check_options(domain, request)
    idempotency = None
    if idempotency_key is not None:
        meaning = request.model_dump_json(exclude_defaults=True) + (upload.sha256 if upload else "")
        idempotency = Idempotency(
            hashlib.sha256(idempotency_key.encode()).hexdigest(), hashlib.sha256(meaning.encode()).hexdigest()
        )
    fields = {"defaults": json.dumps(defaults, ensure_ascii=False), **_record(request)}
    context = domain.spans.traceparent(traceparent)
    if context and trace_id_of(context):
        # Once for all its jobs, and beside their defaults, which users are shown.
        fields["traceparent"] = context
    fields |= _keep_manifest(domain, request, tenant, batch_id, upload)
    try:
        done = domain.batches.begin(batch_id, tenant, fields, idempotency)
    except RetouchError:
        _forget(domain, tenant, batch_id)
        raise
    if done != batch_id:
        _forget(domain, tenant, batch_id)
    publish_chores(domain)
    return BatchSubmission(done, replayed=done != batch_id)


def begin_batch(
    domain: Domain,
    request: BatchOptions,
    *,
    tenant: str,
    batch_id: str,
    kept: bool,
    more: Mapping[str, str],
) -> None:
    """Write a batch under an id that was known before; where it is there already, nothing happens.

    Args:
        domain: what the process works with.
        request: its options; a `BatchRequest` names its manifest.
        tenant: whose batch it is.
        batch_id: its id.
        kept: its manifest lies in its place in the bucket already.
        more: further fields of its record.

    Raises:
        InvalidInput: naming every field that breaks a rule.
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    if domain.batches.state(batch_id) is not None:
        return
    defaults = _defaults(domain, request, tenant, batch_id)
    _check_options(domain, request)
    fields = {"defaults": json.dumps(defaults, ensure_ascii=False), **_record(request), **more}
    if kept:
        fields |= {"source": "kept", "manifest": f"s3://{domain.bucket.name}/{manifest_key(tenant, batch_id)}"}
    else:
        fields |= _keep_manifest(domain, request, tenant, batch_id, None)
    domain.batches.begin(batch_id, tenant, fields, None)
    publish_chores(domain)


def check_batch(domain: Domain, request: BatchOptions, *, tenant: str, manifest: str | None) -> None:
    """Hold a request to the rules of a batch without making one; whether its manifest is there is not asked.

    Raises:
        InvalidInput: naming every field that breaks a rule.
    """
    _defaults(domain, request, tenant, new_batch_id())
    _check_options(domain, request)
    if manifest is None:
        return
    if manifest.startswith("s3://"):
        _readable(domain, tenant, manifest)
    else:
        _check_web(domain, manifest)


def publish_chores(domain: Domain) -> None:
    """Let workers know of what is due. That may fail: every worker looks for itself, too."""
    try:
        domain.broker.publish_chores(domain.chores.due())
    except (RedisError, Unavailable) as error:
        log.warning("chores.not_published", error=str(error))


def _defaults(domain: Domain, request: BatchOptions, tenant: str, batch_id: str) -> dict[str, Any]:
    """What the items share, as it is stored: only what was said, and the model by its name.

    Raises:
        InvalidInput: naming each default that no item could have.
    """
    said = request.defaults.model_dump(mode="json", exclude_defaults=True)
    for name in ("priority", "not_before"):
        value = request.model_dump(mode="json")[name]
        if value is not None:
            said.setdefault(name, value)
    model = domain.catalogue.get(said.get("model"))
    said["model"] = model.name
    # Whatever an item may still bring is not missing yet.
    probe = JobRequest.model_validate({"prompt": "-", "image": "data:", "custom_id": "-", **said})
    faults = item_faults(probe, model, domain.settings, tenant, batch_job_id(batch_id, 1))
    if faults:
        raise InvalidInput(*(FieldError(f"defaults.{one.field}", one.message, one.code) for one in faults))
    return said


def _check_options(domain: Domain, request: BatchOptions) -> None:
    if request.webhook_url is not None:
        try:
            check_webhook_url(request.webhook_url, domain.settings)
        except ValueError as error:
            raise InvalidInput.of("webhook_url", str(error), "url") from error
    if request.webhook_events is not None:
        check_filters(request.webhook_events, "webhook_events")


def _record(request: BatchOptions) -> dict[str, str]:
    fields = batch_fields(request.webhook_url, request.webhook_events, request.webhook_digest_s)
    if request.name:
        fields["name"] = request.name
    if request.metadata:
        fields["metadata"] = json.dumps(request.metadata, ensure_ascii=False)
    if request.trial:
        fields |= {"trial": str(request.trial), "trial_sample": request.trial_sample, "gate": "trial"}
    if request.budget_usd is not None:
        fields["budget"] = str(round(request.budget_usd * MICRO))
    if request.sheet:
        fields["sheet"] = "1"
    if request.supersede:
        fields["supersede"] = "1"
    return fields


def _keep_manifest(
    domain: Domain, request: BatchOptions, tenant: str, batch_id: str, upload: Upload | None
) -> dict[str, str]:
    """Put the manifest where nobody changes it any more; returns the fields that say where it is.

    Raises:
        InvalidInput: naming `manifest`.
    """
    ours, key = domain.bucket.name, manifest_key(tenant, batch_id)
    kept = {"source": "kept", "manifest": f"s3://{ours}/{key}"}
    if upload is not None:
        put_pieces(domain.bucket, ours, key, upload.pieces, media_type="application/octet-stream")
        return kept
    items = request.items if isinstance(request, BatchRequest) else None
    address = request.manifest if isinstance(request, BatchRequest) else None
    if items is not None:
        put_pieces(domain.bucket, ours, key, _json_lines(items), media_type="application/jsonl")
        return kept
    if address is None:
        raise InvalidInput.of("manifest", "required: a file part, s3://bucket/key, or https://…", "missing")
    if not address.startswith("s3://"):
        _check_web(domain, address)
        return {"source": "web", "manifest": address}
    return _keep_object(domain, tenant, address, kept, key)


def _check_web(domain: Domain, address: str) -> None:
    try:
        check_url(address, networks=domain.settings.private_networks)
    except ValueError as error:
        raise InvalidInput.of("manifest", str(error), "url") from error


def _readable(domain: Domain, tenant: str, address: str) -> tuple[str, str]:
    """Bucket and key, or prefix, that a tenant may have read for it."""
    settings = domain.settings
    try:
        whole = address.rstrip("/") == "s3://" + address[5:].partition("/")[0]
        # A bucket as a whole has the empty prefix, which is no key.
        bucket, name = (address[5:].rstrip("/"), "") if whole else parse_s3_url(address)
        check_readable(
            tenant, bucket, name, buckets=settings.buckets, default_bucket=settings.s3_bucket, field="manifest"
        )
    except ValueError as error:
        raise InvalidInput.of("manifest", str(error), "url") from error
    return bucket, name


def _keep_object(domain: Domain, tenant: str, address: str, kept: dict[str, str], key: str) -> dict[str, str]:
    bucket, name = _readable(domain, tenant, address)
    if name.endswith("/") or not name:
        return {"source": "prefix", "manifest": address}
    try:
        domain.bucket.copy(bucket, name, domain.bucket.name, key)
    except NotFound as error:
        raise InvalidInput.of("manifest", f"there is no object {address}", "missing") from error
    return {**kept, "given": address}


def _json_lines(items: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for item in items:
        yield json.dumps(item).encode() + b"\n"


def _forget(domain: Domain, tenant: str, batch_id: str) -> None:
    try:
        domain.bucket.delete(domain.bucket.name, manifest_key(tenant, batch_id))
    except RetouchError as error:
        log.warning("batch.manifest_not_deleted", batch_id=batch_id, error=str(error))
