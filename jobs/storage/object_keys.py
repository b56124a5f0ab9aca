"""Where things lie in the bucket, and whose they are.

    retouch/{tenant}/inputs/{job_id}.{ext}       a picture that came with a submit
    retouch/{tenant}/uploads/{upload_id}/{name}  what a user put through a presigned URL
    retouch/{tenant}/batches/{batch_id}/manifest the manifest of a batch
    retouch/{tenant}/schedules/{schedule_id}/... the items of a schedule
    outputs/...                                  results, unless `output_key` says otherwise

Below `retouch/{tenant}/` only that tenant reads and writes; the rest of a bucket is the team's own.
"""

import re

from jobs.foundation.errors import InvalidInput
from jobs.foundation.ids import batch_of
from jobs.foundation.media_types import EXTENSIONS
from jobs.records.job_models import JobRequest
from jobs.records.output_key import default_key, key_part

PRIVATE = "retouch/"
KEY_MAX = 1024
"""Most bytes of a key in UTF-8 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)."""

_OURS = ("inputs", "uploads", "batches", "schedules")


def tenant_prefix(tenant: str) -> str:
    """What the keys of a tenant's private objects begin with."""
    return f"{PRIVATE}{tenant}/"


def input_key(tenant: str, job_id: str, media_type: str) -> str:
    """The key of a picture that came with a submit."""
    return f"{tenant_prefix(tenant)}inputs/{job_id}.{EXTENSIONS.get(media_type, 'bin')}"


def upload_key(tenant: str, upload_id: str, name: str) -> str:
    """The key that a presigned upload is bound to; `name` is the user's file name, made safe."""
    return f"{tenant_prefix(tenant)}uploads/{upload_id}/{key_part(name)}"


def manifest_key(tenant: str, batch_id: str) -> str:
    """The key of a batch's manifest, as it was submitted."""
    return f"{tenant_prefix(tenant)}batches/{batch_id}/manifest"


def items_key(tenant: str, schedule_id: str, digest: str) -> str:
    """The key of a schedule's inline items; other items are another object, so that a run keeps what it began with."""
    return f"{tenant_prefix(tenant)}schedules/{schedule_id}/items-{digest}.jsonl"


def record_key(batch_id: str, name: str) -> str:
    """The key of a file about a whole batch, beside its pictures."""
    return f"outputs/{batch_id}/{name}"


def output_location(
    spec: JobRequest, job_id: str, media_type: str, default_bucket: str, buckets: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Bucket and key of a job's result.

    By default `outputs/{job_id}.{ext}`, and `outputs/{batch_id}/{custom_id or job_id}.{ext}` for a batch's job.

    Args:
        spec: its `output_key` is a template of a key, or of `s3://bucket/key`.
        job_id: the job's.
        media_type: the result's; decides `{ext}`.
        default_bucket: where keys without a bucket lie.
        buckets: further ones that `output_key` may name.

    Raises:
        InvalidInput: `output_key` names another bucket, or makes a key that is too long or no key.
    """
    if spec.output_key is None:
        return default_bucket, default_key(spec.custom_id, job_id, media_type)
    batch_id = batch_of(job_id)
    name = key_part(spec.custom_id) if spec.custom_id else job_id
    extension = EXTENSIONS.get(media_type, "bin")
    values = {"custom_id": name, "job_id": job_id, "batch_id": batch_id or "single", "ext": extension}
    filled = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], spec.output_key)
    if not filled.startswith("s3://"):
        return default_bucket, _checked(filled)
    try:
        bucket, key = parse_s3_url(filled)
    except ValueError as error:
        raise InvalidInput.of("output_key", str(error)) from error
    if bucket not in {default_bucket, *buckets}:
        raise InvalidInput.of("output_key", f"bucket {bucket!r} is not allowed here", "forbidden_bucket")
    return bucket, _checked(key)


def _checked(key: str) -> str:
    if len(key.encode(errors="surrogatepass")) > KEY_MAX:
        raise InvalidInput.of("output_key", f"makes a key of more than {KEY_MAX} bytes", "too_long")
    return key


def parse_s3_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`.

    Raises:
        ValueError: one sentence about what is wrong.
    """
    bucket, slash, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not slash or not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}", bucket):
        raise ValueError("an object is named s3://bucket/key")
    # Stores differ in what they make of such parts: a prefix check must not depend on that.
    if (
        not key
        or len(key.encode(errors="surrogatepass")) > KEY_MAX
        or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", key)
        or any(part in {"", ".", ".."} for part in key.removesuffix("/").split("/"))
    ):
        raise ValueError(f"a key has 1 to {KEY_MAX} bytes, no control character and no empty, '.' or '..' part")
    return bucket, key


def check_readable(
    tenant: str, bucket: str, key: str, *, buckets: tuple[str, ...], default_bucket: str, field: str = "image"
) -> None:
    """Refuse an object that a tenant may not have read for it.

    Args:
        tenant: on whose behalf.
        bucket: the object's.
        key: the object's.
        buckets: every bucket that submitters may name.
        default_bucket: ours, where the private objects lie.
        field: the submitter's field that named the object.

    Raises:
        InvalidInput: naming the field.
    """
    if bucket not in buckets:
        raise InvalidInput.of(field, f"bucket {bucket!r} is not allowed here", "forbidden_bucket")
    if bucket == default_bucket and key.startswith(PRIVATE) and not key.startswith(tenant_prefix(tenant)):
        raise InvalidInput.of(field, "this key belongs to another tenant or to Retouch itself", "forbidden_key")


def check_writable(tenant: str, bucket: str, key: str, *, buckets: tuple[str, ...], default_bucket: str) -> None:
    """Refuse a place where a tenant's result may not be put: as for reading, and not over inputs either.

    Raises:
        InvalidInput: naming `output_key`.
    """
    check_readable(tenant, bucket, key, buckets=buckets, default_bucket=default_bucket, field="output_key")
    prefix = tenant_prefix(tenant)
    if bucket == default_bucket and key.startswith(tuple(f"{prefix}{name}/" for name in _OURS)):
        raise InvalidInput.of("output_key", "inputs, uploads and manifests are kept below this key", "forbidden_key")
