"""Submits batches: checks the request, saves the manifest, writes the record. A worker reads the rows later."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from jobs.batches.commands import Batches
from jobs.batches.models import Batch, BatchOptions, BatchRequest
from jobs.edits.rules import JobRules, idempotency_digest
from jobs.events.outbox import check_filters
from jobs.foundation.address_policy import check_url
from jobs.foundation.errors import FieldError, InvalidInput, NotFound, RetouchError
from jobs.foundation.ids import batch_job_id, new_batch_id
from jobs.foundation.input_errors import validated
from jobs.foundation.settings import Settings
from jobs.foundation.tracing import Spans, valid_traceparent
from jobs.foundation.webhook_url_policy import check_webhook_url
from jobs.plan.records import Idempotency
from jobs.queueing.publisher import TaskPublisher
from jobs.records.job_codec import MICRO
from jobs.records.job_models import JobRequest
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import check_readable, manifest_key, parse_s3_url
from jobs.storage.streams import put_pieces
from jobs.webhooks.routing import batch_fields

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class AcceptedBatch:
    """The answer to a submit; its batch is durable.

    Attributes:
        batch: as the API shows it.
        replayed: an earlier request with the same Idempotency-Key created the batch; this one wrote nothing.
    """

    batch: Batch
    replayed: bool = False


@dataclass(frozen=True)
class Upload:
    """A manifest in the body of the request.

    Attributes:
        name: file name.
        pieces: its bytes.
        sha256: digest of its bytes, in hexadecimal.
    """

    name: str
    pieces: Iterable[bytes]
    sha256: str


def parse_batch(body: bytes) -> BatchRequest:
    """Parse a request in JSON.

    Raises:
        InvalidInput: naming every field of a wrong type, and every unknown field.
    """
    return validated(BatchRequest.model_validate_json, body)


def parse_options(fields: dict[str, Any]) -> BatchOptions:
    """Parse the form fields that come with an uploaded manifest; `defaults` and other objects are JSON.

    A field of a job is a default: `prompt` is `defaults.prompt`.

    Raises:
        InvalidInput: naming every field of a wrong type, and every unknown field.
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
        explicit = options.get("defaults", {})
        options["defaults"] = {**defaults, **explicit} if isinstance(explicit, dict) else explicit
    return validated(BatchOptions.model_validate, options)


def with_manifest(options: BatchOptions, address: str) -> BatchRequest:
    """The options with the address of a manifest.

    Raises:
        InvalidInput: naming `manifest`.
    """
    return validated(BatchRequest.model_validate, {**options.model_dump(exclude_unset=True), "manifest": address})


class BatchSubmission:
    """Submits batches. Safe in any number of threads at once.

    Args:
        rules: of every job; they apply to the defaults, too.
        batches: where the records are written.
        bucket: where the manifests are saved.
        settings: buckets, networks and ports that submitters may name.
        publisher: publishes the ingest of the manifest.
        spans: the trace that the batch's jobs continue.
    """

    def __init__(
        self,
        rules: JobRules,
        *,
        batches: Batches,
        bucket: Bucket,
        settings: Settings,
        publisher: TaskPublisher,
        spans: Spans,
    ) -> None:
        self._rules = rules
        self._batches = batches
        self._bucket = bucket
        self._settings = settings
        self._publisher = publisher
        self._spans = spans

    def submit(
        self,
        request: BatchOptions,
        *,
        tenant: str,
        upload: Upload | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> AcceptedBatch:
        """Check a request, save its manifest, write the batch and publish its ingest.

        When this returns the batch is durable.

        Args:
            request: a `BatchRequest`, or the options that come with `upload`.
            tenant: owner of the batch.
            upload: a manifest in the body of the request.
            idempotency_key: 1 to 255 printable ASCII characters.
            traceparent: W3C trace context of the request; an invalid one is ignored.

        Raises:
            InvalidInput: naming every field that breaks a rule.
            IdempotencyMismatch: an earlier request used the key with another body.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        digest = idempotency_digest(idempotency_key)
        batch_id = new_batch_id()
        fields = self._checked_fields(request, tenant, batch_id)
        idempotency = None
        if digest is not None:
            content = request.model_dump_json(exclude_defaults=True) + (upload.sha256 if upload else "")
            idempotency = Idempotency(digest, hashlib.sha256(content.encode()).hexdigest())
        if context := valid_traceparent(self._spans, traceparent):
            # Stored once for all jobs, and outside the defaults, which the API shows.
            fields["traceparent"] = context
        fields |= self._save_manifest(request, tenant, batch_id, upload)
        try:
            written = self._batches.begin(batch_id, tenant, fields, idempotency)
        except RetouchError:
            self._delete_manifest(tenant, batch_id)
            raise
        if written != batch_id:
            self._delete_manifest(tenant, batch_id)
        self._publisher.publish_due()
        # `created_at` is the server's time, which only the record has.
        return AcceptedBatch(self._batches.get(tenant, written), replayed=written != batch_id)

    def begin(self, request: BatchOptions, *, tenant: str, batch_id: str, saved: bool, more: Mapping[str, str]) -> None:
        """Write a batch under a given id. Do nothing if it exists.

        Args:
            request: its options; a `BatchRequest` names its manifest.
            tenant: owner of the batch.
            batch_id: its id.
            saved: whether its manifest is already at `manifest_key` in the bucket.
            more: additional fields of its record.

        Raises:
            InvalidInput: naming every field that breaks a rule.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        if self._batches.state(batch_id) is not None:
            return
        fields = {**self._checked_fields(request, tenant, batch_id), **more}
        if saved:
            fields |= self._saved_at(tenant, batch_id)
        else:
            fields |= self._save_manifest(request, tenant, batch_id, None)
        self._batches.begin(batch_id, tenant, fields, None)
        self._publisher.publish_due()

    def check(self, request: BatchOptions, *, tenant: str, manifest: str | None) -> None:
        """Check a request against the rules of a batch and create nothing. The manifest's existence is not checked.

        Raises:
            InvalidInput: naming every field that breaks a rule.
        """
        self._checked_fields(request, tenant, new_batch_id())
        if manifest is None:
            return
        if manifest.startswith("s3://"):
            self._readable(tenant, manifest)
        else:
            self._check_web_address(manifest)

    def _checked_fields(self, request: BatchOptions, tenant: str, batch_id: str) -> dict[str, str]:
        """The fields of the record that depend on the options.

        Raises:
            InvalidInput: naming each option and each default that breaks a rule.
        """
        defaults = self._checked_defaults(request, tenant, batch_id)
        if request.webhook_url is not None:
            try:
                check_webhook_url(request.webhook_url, self._settings)
            except ValueError as error:
                raise InvalidInput.of("webhook_url", str(error), "url") from error
        if request.webhook_events is not None:
            check_filters(request.webhook_events, "webhook_events")
        return {"defaults": json.dumps(defaults, ensure_ascii=False), **_option_fields(request)}

    def _checked_defaults(self, request: BatchOptions, tenant: str, batch_id: str) -> dict[str, Any]:
        """The defaults as they are stored: the fields that the request sets, and the model by name.

        Raises:
            InvalidInput: naming each default that breaks a rule of jobs.
        """
        defaults = request.defaults.model_dump(mode="json", exclude_defaults=True)
        for name in ("priority", "not_before"):
            value = request.model_dump(mode="json")[name]
            if value is not None:
                defaults.setdefault(name, value)
        # The sample has every field that the items may still set.
        sample = JobRequest.model_validate({"prompt": "-", "image": "data:", "custom_id": "-", **defaults})
        findings = self._rules.find(sample, tenant=tenant, job_id=batch_job_id(batch_id, 1))
        if findings.faults or findings.model is None:
            raise InvalidInput(
                *(FieldError(f"defaults.{fault.field}", fault.message, fault.code) for fault in findings.faults)
            )
        return {**defaults, "model": findings.model.name}

    def _save_manifest(
        self, request: BatchOptions, tenant: str, batch_id: str, upload: Upload | None
    ) -> dict[str, str]:
        """Save a copy of the manifest that no user can change; returns the fields that name its location.

        Raises:
            InvalidInput: naming `manifest`.
        """
        target = (self._bucket.name, manifest_key(tenant, batch_id))
        if upload is not None:
            put_pieces(self._bucket, *target, upload.pieces, media_type="application/octet-stream")
            return self._saved_at(tenant, batch_id)
        items = request.items if isinstance(request, BatchRequest) else None
        address = request.manifest if isinstance(request, BatchRequest) else None
        if items is not None:
            put_pieces(self._bucket, *target, _json_lines(items), media_type="application/jsonl")
            return self._saved_at(tenant, batch_id)
        if address is None:
            raise manifest_missing()
        if not address.startswith("s3://"):
            self._check_web_address(address)
            return {"source": "web", "manifest": address}
        bucket, name = self._readable(tenant, address)
        if name.endswith("/") or not name:
            return {"source": "prefix", "manifest": address}
        try:
            self._bucket.copy(bucket, name, *target)
        except NotFound as error:
            raise InvalidInput.of("manifest", f"there is no object {address}", "missing") from error
        return {**self._saved_at(tenant, batch_id), "given": address}

    def _saved_at(self, tenant: str, batch_id: str) -> dict[str, str]:
        return {"source": "kept", "manifest": f"s3://{self._bucket.name}/{manifest_key(tenant, batch_id)}"}

    def _delete_manifest(self, tenant: str, batch_id: str) -> None:
        try:
            self._bucket.delete(self._bucket.name, manifest_key(tenant, batch_id))
        except RetouchError as error:
            log.warning("batch.manifest_not_deleted", batch_id=batch_id, error=str(error))

    def _check_web_address(self, address: str) -> None:
        try:
            check_url(address, networks=self._settings.private_networks)
        except ValueError as error:
            raise InvalidInput.of("manifest", str(error), "url") from error

    def _readable(self, tenant: str, address: str) -> tuple[str, str]:
        """Bucket and key, or prefix, of an address that the tenant may read.

        Raises:
            InvalidInput: naming `manifest`.
        """
        settings = self._settings
        try:
            whole = address.rstrip("/") == "s3://" + address[5:].partition("/")[0]
            # An address of a whole bucket has an empty prefix, which `parse_s3_url` rejects as a key.
            bucket, name = (address[5:].rstrip("/"), "") if whole else parse_s3_url(address)
            check_readable(
                tenant, bucket, name, buckets=settings.buckets, default_bucket=settings.s3_bucket, field="manifest"
            )
        except ValueError as error:
            raise InvalidInput.of("manifest", str(error), "url") from error
        return bucket, name


def manifest_missing() -> InvalidInput:
    """The error of a request without a manifest."""
    return InvalidInput.of("manifest", "required: a file part, s3://bucket/key, or https://…", "missing")


def _option_fields(request: BatchOptions) -> dict[str, str]:
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


def _json_lines(items: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for item in items:
        yield json.dumps(item).encode() + b"\n"
