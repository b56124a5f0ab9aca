"""The keys of objects in the bucket, and which tenant may read and write them.

    retouch/{tenant}/inputs/{job_id}.{ext}       a picture that was submitted as a file
    retouch/{tenant}/uploads/{upload_id}/{name}  an upload through a presigned URL
    retouch/{tenant}/batches/{batch_id}/manifest the manifest of a batch
    retouch/{tenant}/schedules/{schedule_id}/... the items of a schedule
    outputs/...                                  results of jobs without `output_key`

Only the tenant itself reads and writes below `retouch/{tenant}/`. All tenants share the rest of a bucket.
"""

import re

from jobs.foundation.errors import InvalidInput
from jobs.foundation.ids import batch_of
from jobs.foundation.media_types import EXTENSIONS
from jobs.records.job_models import JobRequest
from jobs.records.output_key import default_key, key_part

PRIVATE = "retouch/"
MAX_KEY_BYTES = 1024
"""Maximum length of a key in UTF-8 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)."""

_READ_ONLY = ("inputs", "uploads", "batches", "schedules")


def tenant_prefix(tenant: str) -> str:
    """The beginning of the keys of a tenant's private objects."""
    return f"{PRIVATE}{tenant}/"


def input_key(tenant: str, job_id: str, media_type: str) -> str:
    """The key of a picture that was submitted as a file."""
    return f"{tenant_prefix(tenant)}inputs/{job_id}.{EXTENSIONS.get(media_type, 'bin')}"


def upload_key(tenant: str, upload_id: str, name: str) -> str:
    """The key of a presigned upload; `name` is the user's file name, which is converted to a part of a key."""
    return f"{tenant_prefix(tenant)}uploads/{upload_id}/{key_part(name)}"


def manifest_key(tenant: str, batch_id: str) -> str:
    """The key of a batch's submitted manifest."""
    return f"{tenant_prefix(tenant)}batches/{batch_id}/manifest"


def items_key(tenant: str, schedule_id: str, digest: str) -> str:
    """The key of a schedule's inline items. Changed items get another key: a run keeps its items."""
    return f"{tenant_prefix(tenant)}schedules/{schedule_id}/items-{digest}.jsonl"


def record_key(batch_id: str, name: str) -> str:
    """The key of a file about a whole batch, next to its pictures."""
    return f"outputs/{batch_id}/{name}"


def output_location(
    spec: JobRequest, job_id: str, media_type: str, default_bucket: str, buckets: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Bucket and key of a job's result.

    The default key is `outputs/{job_id}.{ext}`, for a job of a batch `outputs/{batch_id}/{custom_id or job_id}.{ext}`.

    Args:
        spec: its `output_key` is a template of a key or of `s3://bucket/key`.
        job_id: the job's id.
        media_type: the result's media type; it determines `{ext}`.
        default_bucket: the bucket of keys without a bucket.
        buckets: further buckets that `output_key` may name.

    Raises:
        InvalidInput: `output_key` names another bucket, or the key is invalid or too long.
    """
    if spec.output_key is None:
        return default_bucket, default_key(spec.custom_id, job_id, media_type)
    batch_id = batch_of(job_id)
    name = key_part(spec.custom_id) if spec.custom_id else job_id
    extension = EXTENSIONS.get(media_type, "bin")
    values = {"custom_id": name, "job_id": job_id, "batch_id": batch_id or "single", "ext": extension}
    key = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], spec.output_key)
    if not key.startswith("s3://"):
        return default_bucket, _checked(key)
    try:
        bucket, key = parse_s3_url(key)
    except ValueError as error:
        raise InvalidInput.of("output_key", str(error)) from error
    if bucket not in {default_bucket, *buckets}:
        raise InvalidInput.of("output_key", f"bucket {bucket!r} is not allowed here", "forbidden_bucket")
    return bucket, _checked(key)


def _checked(key: str) -> str:
    if len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidInput.of("output_key", f"the key has more than {MAX_KEY_BYTES} bytes", "too_long")
    return key


def parse_s3_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`.

    Raises:
        ValueError: the URL is invalid.
    """
    bucket, slash, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not slash or not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}", bucket):
        raise ValueError("the form is s3://bucket/key")
    # Stores differ in how they read such parts. The check of a prefix must not depend on that.
    if (
        not key
        or len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES
        or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", key)
        or any(part in {"", ".", ".."} for part in key.removesuffix("/").split("/"))
    ):
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes, no control character and no empty, '.' or '..' part")
    return bucket, key


def check_readable(
    tenant: str, bucket: str, key: str, *, buckets: tuple[str, ...], default_bucket: str, field: str = "image"
) -> None:
    """Check that a tenant's job may read an object.

    Args:
        tenant: the job's tenant.
        bucket: the object's bucket.
        key: the object's key.
        buckets: all buckets that requests may name.
        default_bucket: the bucket with the private objects.
        field: the field of the request that names the object.

    Raises:
        InvalidInput: naming the field.
    """
    if bucket not in buckets:
        raise InvalidInput.of(field, f"bucket {bucket!r} is not allowed here", "forbidden_bucket")
    if bucket == default_bucket and key.startswith(PRIVATE) and not key.startswith(tenant_prefix(tenant)):
        raise InvalidInput.of(field, "this key belongs to another tenant or to Retouch itself", "forbidden_key")


def check_writable(tenant: str, bucket: str, key: str, *, buckets: tuple[str, ...], default_bucket: str) -> None:
    """Check that a tenant's result may be put under a key: the key is readable, and not one of an input.

    Raises:
        InvalidInput: naming `output_key`.
    """
    check_readable(tenant, bucket, key, buckets=buckets, default_bucket=default_bucket, field="output_key")
    prefix = tenant_prefix(tenant)
    if bucket == default_bucket and key.startswith(tuple(f"{prefix}{name}/" for name in _READ_ONLY)):
        raise InvalidInput.of("output_key", "this key is reserved for inputs, uploads and manifests", "forbidden_key")
