"""Manifests of every kind, and the reasons for refusing unreadable ones."""

import io
import json
from typing import Any

import openpyxl  # type: ignore[import-untyped]
import pytest

from jobs.batches.manifests.columns import ManifestFault
from jobs.batches.manifests.reader import Row, read_rows
from jobs.batches.results.lines import csv_line, plain_cell


def rows(data: bytes) -> list[Row]:
    return list(read_rows(io.BytesIO(data)))


def fields(data: bytes) -> list[dict[str, Any]]:
    found = rows(data)
    assert not [row.faults for row in found if row.faults]
    return [row.fields for row in found]


def workbook(*lines: list[Any], title: str = "Sheet") -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = title
    for line in lines:
        sheet.append(line)
    held = io.BytesIO()
    book.save(held)
    return held.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"custom_id,image\nA,x\n", [{"custom_id": "A", "image": "x"}], id="plain commas"),
        pytest.param(b"\xef\xbb\xbfcustom_id,image\nA,x\n", [{"custom_id": "A", "image": "x"}], id="BOM"),
        pytest.param("custom_id,image\nA,x\n".encode("utf-16"), [{"custom_id": "A", "image": "x"}], id="UTF-16"),
        pytest.param(b"custom_id;image\nA;x\n", [{"custom_id": "A", "image": "x"}], id="semicolons"),
        pytest.param(b"sep=;\r\ncustom_id;image\r\nA;x\r\n", [{"custom_id": "A", "image": "x"}], id="Excel's sep line"),
        pytest.param(b"custom_id\timage\nA\tx\n", [{"custom_id": "A", "image": "x"}], id="tabs"),
        pytest.param(b"'custom_id':'image'\n'A':'x'\n'B':'y'\n", [
            {"custom_id": "A", "image": "x"}, {"custom_id": "B", "image": "y"}], id="what only the sniffer knows"),
        pytest.param(b'image,prompt\nx,"one\ntwo, ""three"""\n', [{"image": "x", "prompt": 'one\ntwo, "three"'}],
                     id="quoted newlines"),
        pytest.param("custom_id,image\n\u978b\u5b50-\U0001f45f,x\n".encode(),
                     [{"custom_id": "\u978b\u5b50-\U0001f45f", "image": "x"}], id="Chinese and emoji"),
        pytest.param(b" Custom ID ,IMAGE\nA,x\n", [{"custom_id": "A", "image": "x"}], id="headers as people write"),
        pytest.param(b"image,metadata.Season,steps\nx,winter,\n", [{"image": "x", "metadata": {"Season": "winter"}}],
                     id="metadata columns, empty cells"),
        pytest.param(b"custom_id,image\n\n  ,\nA,x\n\n", [{"custom_id": "A", "image": "x"}], id="blank rows"),
        pytest.param(b"custom_id,image\r\nA,x", [{"custom_id": "A", "image": "x"}], id="no newline at the end"),
        pytest.param(b"custom_id,image\rA,x\r", [{"custom_id": "A", "image": "x"}], id="old Mac line ends"),
        pytest.param(b"custom_id,image\n", [], id="a header alone"),
        pytest.param(b'{"image":"x","steps":8,"seed":null,"metadata.a":"b"}\n\n{"image":"y"}\n',
                     [{"image": "x", "steps": 8, "metadata": {"a": "b"}}, {"image": "y"}], id="JSONL"),
    ],
)  # fmt: skip
def test_files_as_spreadsheet_programs_save_them_are_read(data: bytes, expected: list[dict[str, Any]]) -> None:
    assert fields(data) == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="an empty file"),
        pytest.param(b" \n\n", "empty", id="blank lines alone"),
        pytest.param(b"PK\x03\x04" + bytes(60), "archive", id="a zip renamed to .csv"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(60), "a PNG picture", id="a picture"),
        pytest.param(b"\x1f\x8b" + bytes(60), "gzip", id="a gzip"),
        pytest.param(b"a\0b\0c\0", "a binary file", id="binary"),
        pytest.param(b"https://a/1.jpg,SKU-1\n", "must name the columns", id="no header"),
        pytest.param(b"custom_id,image,promt\n", "did you mean 'prompt'", id="a typo"),
        pytest.param(b"custom_id,image,colour\n", "metadata.colour", id="an unknown column"),
        pytest.param(b"image,image\n", "twice", id="a column twice"),
        pytest.param(b'[{"image": "x"}]', "JSON array", id="one array"),
        pytest.param(b"image\n" + b"x" * 17_000_000, "line 2 has over", id="a line without end"),
        pytest.param(b'image\n"' + 18_000 * (b"x" * 999 + b"\n"), "quotation mark", id="a quote never closed"),
    ],
)
def test_an_unreadable_manifest_gives_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ManifestFault, match=reason):
        rows(data)


@pytest.mark.parametrize(
    ("data", "line", "field", "reason"),
    [
        pytest.param(b"custom_id,image\nA," + b"x" * 10_000_000 + b"\nB,x\n", 2, "image", "10,000,000", id="10 MB"),
        pytest.param(b"custom_id,image\nA,\xe9\xe8\nB,x\n", 2, "image", "UTF-8", id="Latin-1"),
        pytest.param(b"custom_id,image\nA,x,y\nB,x\n", 2, "", "3 cells", id="too many cells"),
        pytest.param(b"custom_id,,image\nA,oops,x\nB,,x\n", 2, "", "without a name", id="a column without a name"),
        pytest.param(b'{"image":"x"}\n{"image": \n', 2, "", "invalid JSON", id="half a line of JSON"),
        pytest.param(b'{"image":"x"}\n[1]\n', 2, "", "not a JSON object", id="no object"),
        pytest.param(b'{"image":"x"}\n{"image":"\\ud800"}\n', 2, "image", "UTF-8", id="half of a character"),
    ],
)
def test_a_bad_row_does_not_affect_other_rows(data: bytes, line: int, field: str, reason: str) -> None:
    found = rows(data)
    assert len(found) == 2
    (bad,) = [row for row in found if row.faults]
    assert (bad.line, bad.faults[0].field) == (line, field)
    assert reason in bad.faults[0].message


def test_a_row_has_the_number_of_its_first_line() -> None:
    found = rows(b'image,prompt\nx,"a\nb"\n\ny,c\n')
    assert [(row.number, row.line) for row in found] == [(1, 2), (2, 5)]


def test_a_workbook_is_read_like_a_table() -> None:
    data = workbook(
        ["custom_id", "image", "steps", "cfg_scale"], [1041, "x", 8, 2.5], [None] * 4, ["B", "y", None, None]
    )
    found = rows(data)
    assert [row.fields for row in found] == [
        {"custom_id": "1041", "image": "x", "steps": "8", "cfg_scale": "2.5"},
        {"custom_id": "B", "image": "y"},
    ]
    assert [row.line for row in found] == [2, 4]


def test_an_empty_workbook_is_reported_as_empty() -> None:
    with pytest.raises(ManifestFault, match="empty"):
        rows(workbook())


def test_openais_batch_lines_are_read() -> None:
    line = {
        "custom_id": "A",
        "method": "POST",
        "url": "/v1/images/edits",
        "body": {"model": "step-image-edit-2", "prompt": "p", "images": [{"image_url": "https://a/1.png"}], "n": 1},
    }
    assert fields(json.dumps(line).encode() + b"\n") == [
        {"custom_id": "A", "image": "https://a/1.png", "model": "step-image-edit-2", "prompt": "p"}
    ]


def test_openais_batch_lines_for_other_routes_are_refused() -> None:
    line = {"custom_id": "A", "method": "POST", "url": "/v1/chat/completions", "body": {"n": 2, "images": ["a", "b"]}}
    (row,) = rows(json.dumps(line).encode() + b"\n")
    assert {fault.field for fault in row.faults} == {"url", "body.n", "body.images"}


def test_reading_twice_gives_the_same_rows_under_the_same_numbers() -> None:
    data = b"image\n" + b"".join(b"x%d\n\n" % n for n in range(50))
    assert rows(data) == rows(data)
    assert [row.number for row in rows(data)] == list(range(1, 51))


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_executed_as_a_formula_by_a_spreadsheet(cell: str) -> None:
    assert str(plain_cell(cell)).startswith("'")


def test_numbers_and_plain_texts_stay_unchanged() -> None:
    assert csv_line([-1, 2.5, None, "SKU-1", 'say "hi"']) == b'-1,2.5,,SKU-1,"say ""hi"""\r\n'
