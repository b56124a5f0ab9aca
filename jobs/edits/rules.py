"""The rules that a job must keep: the same for a single job, for a batch's row and for a batch's defaults."""

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from jobs.catalogue.catalogue import Catalogue, ModelSpec
from jobs.edits.uploads import Uploaded, UploadedPictures, is_data_url
from jobs.foundation.address_policy import check_url
from jobs.foundation.errors import FieldError, InvalidInput
from jobs.foundation.settings import Settings
from jobs.foundation.webhook_url_policy import check_webhook_url
from jobs.records.job_models import JobRequest
from jobs.storage.object_keys import check_readable, check_writable, output_location, parse_s3_url


@dataclass(frozen=True)
class CheckedJob:
    """A request that keeps every rule.

    Attributes:
        model: what edits it.
        output: bucket and key of its result, with the extension of a JPEG.
        uploaded: its picture, where the bytes came with the request; not yet in the bucket.
    """

    model: ModelSpec
    output: tuple[str, str]
    uploaded: Uploaded | None = None


@dataclass(frozen=True)
class Findings:
    """The findings of the rules for a request.

    Attributes:
        faults: every broken rule.
        model: None where the request names an unknown one.
        output: bucket and key of the result; None where the request breaks a rule about them.
    """

    faults: list[FieldError]
    model: ModelSpec | None
    output: tuple[str, str] | None


class JobRules:
    """Checks requests. Safe in any number of threads at once.

    Args:
        catalogue: the models with their rules.
        settings: buckets, networks and ports that submitters may name.
        pictures: checks pictures that come with the request.
    """

    def __init__(self, catalogue: Catalogue, settings: Settings, pictures: UploadedPictures) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._pictures = pictures

    def check(self, request: JobRequest, *, tenant: str, job_id: str, upload: bytes | None = None) -> CheckedJob:
        """Check a request, its picture's bytes included. Nothing is written.

        Args:
            request: the submitted fields, already of the right types.
            tenant: its name.
            job_id: the id that it gets.
            upload: the picture's bytes, where they came in a file part.

        Raises:
            InvalidInput: naming every field that breaks a rule.
            TooLarge: the picture has over `settings.max_upload_bytes`.
        """
        findings = self.find(request, tenant=tenant, job_id=job_id, uploaded=upload is not None)
        faults, model, uploaded = [*findings.faults], findings.model, None
        try:
            data = self._pictures.read(request.image, upload)
            if data is not None and model is not None:
                uploaded = self._pictures.check(data, model, tenant=tenant, job_id=job_id)
        except InvalidInput as error:
            faults += error.errors
        if faults or model is None or findings.output is None:
            raise InvalidInput(*faults)
        return CheckedJob(model, findings.output, uploaded)

    def find(self, request: JobRequest, *, tenant: str, job_id: str, uploaded: bool = False) -> Findings:
        """Every broken rule, except those about the picture's bytes.

        Args:
            request: the submitted fields.
            tenant: its name.
            job_id: the id that it gets.
            uploaded: the picture came in a file part.
        """
        faults: list[FieldError] = []
        model = output = None
        try:
            model = self._catalogue.get(request.model)
            faults += model.faults(request)
        except InvalidInput as error:
            faults += error.errors
        faults += _timing_faults(request)
        try:
            output = self._output(request, tenant, job_id)
        except InvalidInput as error:
            faults += error.errors
        if request.webhook_url is not None:
            faults += _url_faults("webhook_url", partial(check_webhook_url, request.webhook_url, self._settings))
        faults += self._image_faults(request.image, tenant, uploaded=uploaded)
        return Findings(faults, model, output)

    def _output(self, request: JobRequest, tenant: str, job_id: str) -> tuple[str, str]:
        settings = self._settings
        # The extension is known with the result alone. It does not decide who owns the key.
        bucket, key = output_location(request, job_id, "image/jpeg", settings.s3_bucket, settings.allowed_buckets)
        check_writable(tenant, bucket, key, buckets=settings.buckets, default_bucket=settings.s3_bucket)
        return bucket, key

    def _image_faults(self, image: str | None, tenant: str, *, uploaded: bool) -> list[FieldError]:
        if uploaded:
            return [] if image is None else [FieldError("image", "send a file or an address, not both", "repeated")]
        if image is None:
            wanted = "required: https://…, s3://bucket/key or data:image/png;base64,… (a single job may send a file)"
            return [FieldError("image", wanted, "missing")]
        if is_data_url(image):
            return []
        if image.startswith("s3://"):
            return self._object_faults(image, tenant)
        if re.match(r"https?:", image, re.IGNORECASE):
            return _url_faults("image", partial(check_url, image, networks=self._settings.private_networks))
        return [FieldError("image", "use https://…, s3://bucket/key or data:image/png;base64,…", "unsupported")]

    def _object_faults(self, image: str, tenant: str) -> list[FieldError]:
        settings = self._settings
        try:
            bucket, key = parse_s3_url(image)
            check_readable(tenant, bucket, key, buckets=settings.buckets, default_bucket=settings.s3_bucket)
        except ValueError as error:
            return [FieldError("image", str(error), "url")]
        except InvalidInput as error:
            return list(error.errors)
        return []


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


def draw_seed(model: ModelSpec) -> int | None:
    """A random seed within the model's bounds, so that every retry asks for the same picture.

    None where the model takes no seed.
    """
    if not model.default_seed:
        return None
    rule = model.parameters["seed"]
    low = int(rule.min) if rule.min is not None else 0
    high = int(rule.max) if rule.max is not None else 2**31 - 1
    return low + secrets.randbelow(high - low + 1)


def idempotency_digest(key: str | None) -> str | None:
    """SHA-256 (hex) of an Idempotency-Key header; None where the request has none.

    Raises:
        InvalidInput: naming the header.
    """
    if key is None:
        return None
    if not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise InvalidInput.of("Idempotency-Key", "must have 1 to 255 printable ASCII characters")
    return hashlib.sha256(key.encode()).hexdigest()


def _url_faults(field: str, check: Callable[[], object]) -> list[FieldError]:
    try:
        check()
    except ValueError as error:
        return [FieldError(field, str(error), "url")]
    return []


def _timing_faults(request: JobRequest) -> list[FieldError]:
    if request.not_before is None or request.deadline_s is None:
        return []
    if request.not_before <= datetime.now(UTC) + timedelta(seconds=request.deadline_s):
        return []
    return [FieldError("deadline_s", "ends before not_before: it counts from the submit", "out_of_range")]
