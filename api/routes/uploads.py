"""`/v1/uploads`: upload targets in the bucket for pictures that will be submitted."""

import mimetypes
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response

from api.auth import CallerOf, authenticate
from api.context import BucketOf, SettingsOf
from api.http import schema
from api.http.responses import URL_LIVES_S, UploadRequest, UploadTarget, answer
from jobs.foundation.ids import new_id
from jobs.storage.object_keys import upload_key

router = APIRouter(
    prefix="/v1/uploads", tags=["uploads"], dependencies=[Depends(authenticate)], responses=schema.problems(401)
)


@router.post(
    "",
    status_code=201,
    response_model=UploadTarget,
    summary="Create an upload target",
    description=(
        "A presigned PUT URL and the `s3://` address to submit. The picture does not pass through the API, which suits "
        f"large pictures. The URL is valid for {URL_LIVES_S} seconds."
    ),
)
def create_upload(
    bucket: BucketOf, settings: SettingsOf, caller: CallerOf, wanted: Annotated[UploadRequest | None, Body()] = None
) -> Response:
    """Choose an object key in the tenant's area and presign its PUT."""
    wanted = wanted or UploadRequest()
    filename = PurePosixPath((wanted.filename or "").replace("\\", "/")).name
    name = filename or "picture" + (mimetypes.guess_extension(wanted.media_type or "") or "")
    key = upload_key(caller.tenant, new_id("upl"), name)
    url = bucket.presign_put(bucket.name, key, media_type=wanted.media_type, expires_s=URL_LIVES_S)
    target = UploadTarget(
        url=url,
        headers={"Content-Type": wanted.media_type} if wanted.media_type else {},
        image=f"s3://{bucket.name}/{key}",
        expires_at=datetime.now(UTC) + timedelta(seconds=URL_LIVES_S),
        max_bytes=settings.max_upload_bytes,
    )
    return answer(target, 201)
