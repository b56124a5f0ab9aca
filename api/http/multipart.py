"""Multipart forms: size limits, unknown and repeated parts, and the conversion of text parts to request fields."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.http.bodies import FORM_BYTES, bounded
from jobs.foundation.errors import FieldError, InvalidInput, TooLarge

MAX_VALUES = 100
MAX_FILES = 4
"""More than a request may have, so that the error for a second picture can name the field."""


class _Parser(MultiPartParser):
    """Starlette's parser, which accepts truncated forms. This class records whether the form was complete."""

    complete = False

    def on_end(self) -> None:
        """Called at the last boundary."""
        self.complete = True


@dataclass(frozen=True)
class Form:
    """A form's parts in their original order; their names are not checked."""

    values: list[tuple[str, str]]
    files: list[tuple[str, UploadFile]]

    async def file(self, names: Iterable[str], max_bytes: int) -> bytes | None:
        """The content of the single file part, whose name must be in `names`; None if there is no file part.

        Raises:
            InvalidInput: there are several file parts, or the name is not in `names`.
            TooLarge: the file has over `max_bytes` bytes.
        """
        known = tuple(names)
        for name, _ in self.files:
            if name not in known:
                raise InvalidInput.of(name, f"no such file part: send the picture as {known[0]}", "extra_forbidden")
        if len(self.files) > 1:
            raise InvalidInput.of(self.files[1][0], "exactly one picture", "repeated")
        if not self.files:
            return None
        name, part = self.files[0]
        if (part.size or 0) > max_bytes:
            raise TooLarge(f"{name} has {part.size:,} bytes: at most {max_bytes:,}")
        return await run_in_threadpool(part.file.read)


@asynccontextmanager
async def read_form(request: Request, max_file_bytes: int) -> AsyncIterator[Form]:
    """The request's form. Files over 1 MiB are kept on disk; all files are deleted at the end.

    Raises:
        TooLarge: the body or a text part is over its limit.
        InvalidInput: the body is not a valid multipart form, or it has too many parts.
    """
    parser = _Parser(
        request.headers,
        bounded(request, max_file_bytes + FORM_BYTES),
        max_files=MAX_FILES,
        max_fields=MAX_VALUES,
        max_part_size=FORM_BYTES,
    )
    try:
        data = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Part exceeded"):
            raise TooLarge(f"a text part has over {FORM_BYTES:,} bytes") from error
        raise InvalidInput.of("", f"the multipart form cannot be read: {error.message}", "multipart") from error
    try:
        if not parser.complete:
            raise InvalidInput.of("", "the multipart form is incomplete: the last boundary is missing", "multipart")
        parts = data.multi_items()
        yield Form(
            [(name, part) for name, part in parts if isinstance(part, str)],
            [(name, part) for name, part in parts if isinstance(part, UploadFile)],
        )
    finally:
        await data.close()


def job_fields(values: Iterable[tuple[str, str]]) -> dict[str, object]:
    """A form's text parts as request fields: `metadata` is a JSON object, `metadata.x` is one entry of it.

    Raises:
        InvalidInput: it names each repeated field, and `metadata` if it is not a JSON object.
    """
    fields: dict[str, object] = {}
    metadata: dict[str, object] = {}
    faults = []
    names: set[str] = set()
    for name, value in values:
        if name in names:
            faults.append(FieldError(name, "sent more than once", "repeated"))
            continue
        names.add(name)
        entry = name.removeprefix("metadata.")
        if entry != name:
            metadata[entry] = value
        elif name == "metadata":
            try:
                entries = json.loads(value)
            except ValueError:
                entries = None
            if isinstance(entries, dict):
                metadata |= entries
            else:
                faults.append(FieldError(name, "must be a JSON object of strings", "dict_type"))
        else:
            fields[name] = value
    if faults:
        raise InvalidInput(*faults)
    if metadata:
        fields["metadata"] = metadata
    return fields
