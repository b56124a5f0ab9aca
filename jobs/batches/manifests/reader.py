"""Reads the rows of a manifest: CSV in any dialect, JSONL, OpenAI's batch lines, and spreadsheets.

An invalid row is rejected alone; a manifest that cannot be read raises `ManifestFault`. Reading is deterministic: the
same bytes give the same rows with the same numbers, so that a reader can continue where another stopped.
"""

import csv
import io
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from jobs.batches.manifests.columns import Columns, ManifestFault
from jobs.batches.manifests.openai_lines import is_openai_line, read_openai_line
from jobs.foundation.errors import FieldError

MAX_FIELD = 32_768
"""Characters of a valid field."""
MAX_LINE = 16 * 1024 * 1024
"""Characters of a line, and of a quoted field; a longer one ends the reading."""
_SAMPLE = 64 * 1024
_DELIMITERS = ",;\t|"
_BINARY = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"RIFF": "a picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_FORMATS = "supported are CSV with a header row, JSONL (one object per line) and XLSX"


@dataclass(frozen=True)
class Row:
    """A row of a manifest.

    Attributes:
        number: its position among the rows that are not blank, from 1.
        line: its first line (or the sheet's row), from 1.
        fields: by name, without the empty ones.
        faults: why the row is invalid, as far as its shape shows.
    """

    number: int
    line: int
    fields: dict[str, Any]
    faults: tuple[FieldError, ...] = field(default=())


def read_rows(file: IO[bytes]) -> Generator[Row, None, None]:
    """The rows of a manifest; its bytes decide the format.

    Args:
        file: at any position; must be seekable.

    Raises:
        ManifestFault: it cannot be read, or not to its end.
    """
    file.seek(0)
    head = file.read(_SAMPLE)
    file.seek(0)
    if not head.strip():
        raise ManifestFault("the manifest is empty")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\xd0\xcf\x11\xe0")):
        from jobs.batches.manifests.spreadsheets import read_sheet  # noqa: PLC0415 - most manifests do not need it

        for number, (line, fields, faults) in enumerate(read_sheet(file), 1):
            yield Row(number, line, fields, (*faults, *_length_faults(fields)))
        return
    kind = next((name for magic, name in _BINARY.items() if head.startswith(magic)), None)
    encoding = _encoding(head)
    if kind is None and b"\0" in head and encoding == "utf-8-sig":
        kind = "a binary file"
    if kind is not None:
        raise ManifestFault(f"the manifest is {kind}: {_FORMATS}")
    # Bytes that are not UTF-8 become lone surrogates: only their rows are rejected.
    text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
    try:
        sample = head.decode(encoding, "ignore").lstrip()
        if sample.startswith("["):
            raise ManifestFault("the manifest is one JSON array: JSONL has one object per line, without brackets")
        yield from _read_json_lines(text) if sample.startswith("{") else _read_csv(text, sample)
    finally:
        text.detach()


def _encoding(head: bytes) -> str:
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise ManifestFault(f"line {number} has over {MAX_LINE:,} characters")
        yield line


def _read_csv(text: io.TextIOWrapper, sample: str) -> Iterator[Row]:
    lines = _lines(text)
    first = ""
    skipped = 0
    for first in lines:
        if first.strip() and not first.lower().startswith("sep="):
            break
        skipped += 1
    # The limit applies to the process and is only raised: without it, one long field would end the reading.
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(_chained(first, lines), dialect=_dialect(first, sample))
    try:
        columns = Columns(next(reader, []))
        before = reader.line_num
        number = 0
        for cells in reader:
            line, before = before + 1 + skipped, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            number += 1
            fields, faults = columns.fields_of(cells)
            yield Row(number, line, fields, (*faults, *_length_faults(fields)))
    except csv.Error as error:
        where = reader.line_num + skipped
        raise ManifestFault(f"line {where}: {error}: is a quotation mark not closed?") from error


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _dialect(header: str, sample: str) -> type[csv.Dialect]:
    """The dialect whose header names the most known columns; else the result of `csv.Sniffer`, else plain commas."""

    class Plain(csv.excel):
        strict = False

    def known(delimiter: str) -> int:
        names = next(csv.reader([header], delimiter=delimiter), [])
        return Columns.known(names)

    best = max(_DELIMITERS, key=known)
    if known(best):
        Plain.delimiter = best
        return Plain
    try:
        return csv.Sniffer().sniff(sample)
    except csv.Error:
        return Plain


def _read_json_lines(text: io.TextIOWrapper) -> Iterator[Row]:
    number = 0
    for line, content in enumerate(_lines(text), 1):
        if not content.strip():
            continue
        number += 1
        if len(content) > MAX_LINE // 2:
            yield Row(number, line, {}, (FieldError("", f"the line has {len(content):,} characters", "too_long"),))
            continue
        try:
            entry = json.loads(content)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            yield Row(number, line, {}, (FieldError("", f"invalid JSON: {reason.lower()}", "json"),))
            continue
        if not isinstance(entry, dict):
            yield Row(number, line, {}, (FieldError("", "not a JSON object", "json"),))
            continue
        fields, faults = read_openai_line(entry) if is_openai_line(entry) else read_object(entry)
        yield Row(number, line, fields, (*faults, *_length_faults(fields)))


def read_object(entry: dict[str, Any]) -> tuple[dict[str, Any], list[FieldError]]:
    """An object's fields without nulls; `metadata.x` becomes an entry of `metadata`."""
    fields: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for name, value in entry.items():
        if value is None:
            continue
        if name.startswith("metadata."):
            metadata[name.removeprefix("metadata.")] = value
        else:
            fields[name] = value
    if metadata:
        nested = fields.get("metadata")
        fields["metadata"] = {**(nested if isinstance(nested, dict) else {}), **metadata}
    return fields, []


def _length_faults(fields: dict[str, Any]) -> Iterator[FieldError]:
    for name, value in fields.items():
        if not isinstance(value, str):
            continue
        if len(value) > MAX_FIELD and not (name == "image" and value[:5].lower() == "data:"):
            yield FieldError(name[:64], f"at most {MAX_FIELD:,} characters, not {len(value):,}", "too_long")
        elif not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            yield FieldError(name[:64], "is not in UTF-8: save the file as UTF-8", "encoding")
