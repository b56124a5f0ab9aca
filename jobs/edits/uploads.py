"""Pictures that come with a request: decoded, probed, put into the bucket, deleted if the submit is refused."""

import hashlib
from dataclasses import dataclass

import structlog

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import InputRejected, InvalidInput, RetouchError, TooLarge
from jobs.foundation.settings import Settings
from jobs.images.data_urls import decode_data_url
from jobs.images.probe import probe
from jobs.records.job_models import Input
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import input_key

log = structlog.get_logger(__name__)


def is_data_url(image: str) -> bool:
    """Whether a picture's address holds the picture itself."""
    return image[:5].lower() == "data:"


@dataclass(frozen=True)
class Uploaded:
    """A picture that has passed every rule of its model and can be put into the bucket.

    Attributes:
        data: its bytes.
        input: its description; `input.image` is its future `s3://` address.
        key: of the object.
    """

    data: bytes
    input: Input
    key: str


class UploadedPictures:
    """Checks uploaded pictures and keeps them in the bucket. Safe in any number of threads at once.

    Args:
        bucket: where the pictures are put.
        settings: `max_upload_bytes` and the name of the bucket.
    """

    def __init__(self, bucket: Bucket, settings: Settings) -> None:
        self._bucket = bucket
        self._settings = settings

    def read(self, image: str | None, upload: bytes | None) -> bytes | None:
        """The picture's bytes, of a file part or of a `data:` URL; None where `image` is another address.

        Raises:
            InvalidInput: naming `image`.
            TooLarge: the picture has over `settings.max_upload_bytes`.
        """
        limit = self._settings.max_upload_bytes
        if upload is not None:
            data = upload
        elif image is not None and is_data_url(image):
            if (len(image) - image.find(",") - 1) // 4 * 3 > limit + 2:
                raise TooLarge(f"image has over {limit:,} bytes")
            try:
                data = decode_data_url(image, limit)
            except ValueError as error:
                raise InvalidInput.of("image", str(error)) from error
        else:
            return None
        if len(data) > limit:
            raise TooLarge(f"image has {len(data):,} bytes: at most {limit:,}")
        return data

    def check(self, data: bytes, model: ModelSpec, *, tenant: str, job_id: str) -> Uploaded:
        """The picture, ready to be put; nothing is written yet.

        Raises:
            InvalidInput: naming `image`: the bytes are not a picture, or break a rule of the model.
        """
        try:
            picture = probe(data, max_pixels=model.max_width * model.max_height)
        except InputRejected as error:
            raise InvalidInput.of("image", error.message, error.code) from error
        if fault := model.image_fault(picture.media_type, picture.width, picture.height, len(data)):
            raise InvalidInput.of("image", fault, "out_of_range")
        key = input_key(tenant, job_id, picture.media_type)
        known = Input(
            image=f"s3://{self._settings.s3_bucket}/{key}",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            media_type=picture.media_type,
            width=picture.width,
            height=picture.height,
        )
        return Uploaded(data, known, key)

    def put(self, uploaded: Uploaded) -> None:
        """Put the picture into the bucket. The same picture may be put again.

        Raises:
            Unavailable: the store does not accept it.
        """
        media_type, sha256 = uploaded.input.media_type or "", uploaded.input.sha256
        self._bucket.put(self._bucket.name, uploaded.key, uploaded.data, media_type=media_type, sha256=sha256)

    def delete(self, uploaded: Uploaded) -> None:
        """Delete the picture of a submit that wrote no job. A store that does not answer is logged."""
        try:
            self._bucket.delete(self._bucket.name, uploaded.key)
        except RetouchError as error:
            log.warning("submit.input_not_deleted", key=uploaded.key, error=str(error))
