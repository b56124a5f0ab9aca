"""The size limits of CONTRIBUTING.md, and references from documents to files and tests."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_TEST_NAME = 79
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").glob("*.md")])
FOLDERS = "api|docs|infra|jobs|retouch|tests|workers"


def sources(*suffixes: str) -> list[Path]:
    """The files of the repository with these endings."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    found = ast.walk(ast.parse(path.read_text()))
    return [node for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_source_file_exceeds_400_lines():
    lengths = {path: path.read_text().count("\n") for path in sources(".py", ".lua")}
    assert len(lengths) > 300
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_exceeds_60_lines():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources(".py")
        for node in functions(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_test_names_stay_under_80_characters():
    tests = [path for path in sources(".py") if path.name.startswith("test_")]
    long = [node.name for path in tests for node in functions(path) if len(node.name) > MAX_TEST_NAME]
    assert long == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_refers_only_to_files_and_tests_that_exist(document: Path):
    text = document.read_text()
    missing = []
    for name, test in re.findall(rf"`((?:{FOLDERS})/[\w./-]+\.(?:py|lua|toml|css|md|yaml))(?:::(\w+))?`", text):
        path = ROOT / name
        if not path.is_file():
            missing.append(name)
        elif test and test not in {node.name for node in functions(path)}:
            missing.append(f"{name}::{test}")
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    missing += [link for link in links if not (document.parent / link).exists()]
    assert missing == []
