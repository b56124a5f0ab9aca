"""Multipart forms: bounded, every part accounted for, text turned into a request's fields."""

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
"""More than a request may use, so that a second picture is refused by name and not by the parser."""


class _Parser(MultiPartParser):
    """Starlette's parser, which takes a form that is cut short for a whole one, and remembers here whether it was."""

    whole = False

    def on_end(self) -> None:
        """The last boundary was read."""
        self.whole = True


@dataclass(frozen=True)
class Form:
    """A form's parts in the order they came, names not yet looked at."""

    values: list[tuple[str, str]]
    files: list[tuple[str, UploadFile]]

    async def file(self, names: Iterable[str], max_bytes: int) -> bytes | None:
        """The bytes of the one file part that goes by one of `names`; None if there is none.

        Raises:
            InvalidInput: there is more than one, or a file part of another name.
            TooLarge: it has over `max_bytes`.
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
    """The request's form. A file over 1 MiB waits on disk; all are gone at the end.

    Raises:
        TooLarge: the body, or a text part, is over its limit.
        InvalidInput: it is no multipart form, or has too many parts.
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
        if not parser.whole:
            raise InvalidInput.of("", "the multipart form is cut short: its last boundary is missing", "multipart")
        parts = data.multi_items()
        yield Form(
            [(name, part) for name, part in parts if isinstance(part, str)],
            [(name, part) for name, part in parts if isinstance(part, UploadFile)],
        )
    finally:
        await data.close()


def job_fields(values: Iterable[tuple[str, str]]) -> dict[str, object]:
    """A form's text parts as a request's fields: `metadata` is JSON, and `metadata.x` one entry of it.

    Raises:
        InvalidInput: naming each field that came twice, and a `metadata` that is no JSON object.
    """
    fields: dict[str, object] = {}
    metadata: dict[str, object] = {}
    faults = []
    seen: set[str] = set()
    for name, value in values:
        if name in seen:
            faults.append(FieldError(name, "given more than once", "repeated"))
            continue
        seen.add(name)
        entry = name.removeprefix("metadata.")
        if entry != name:
            metadata[entry] = value
        elif name == "metadata":
            try:
                given = json.loads(value)
            except ValueError:
                given = None
            if isinstance(given, dict):
                metadata |= given
            else:
                faults.append(FieldError(name, "a JSON object of strings", "dict_type"))
        else:
            fields[name] = value
    if faults:
        raise InvalidInput(*faults)
    if metadata:
        fields["metadata"] = metadata
    return fields
