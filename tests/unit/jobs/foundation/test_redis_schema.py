"""docs/redis_schema.md lists every key that `Keys` makes, and every hash field that scripts name or a real store has.

The fields of scripts are collected from their text, by these rules:

- the list of a header `-- reads NAME: a, b`
- the list of `read(key, {'a', 'b'})`
- the fields of the commands in COMMANDS, and of `add(key, 'a', 1)`, which counts
- the keys of a table `{a = 1}` that a helper writes whole: `write_fields`, `write_if_missing`, `write_delivery`

A text that is followed by `..` is a prefix. The page writes the prefix `n:` as `n:{state}`.
"""

import gzip
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.foundation.redis_keys import Keys
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/redis_schema.md").read_text()
SCRIPTS = ROOT / "jobs/lua"
TYPES = {"hash": "hash", "zset": "sorted set", "set": "set", "list": "list", "string": "string", "stream": "stream"}
FIELDS_ARE_DATA = re.compile(r"rt:(seen|rendered|tidied)\b")
"""Keys of hashes whose fields are digests or keys, not names."""
COMMANDS = "HSETNX|HSET|HGET|HMGET|HDEL|HEXISTS|HINCRBY"
CALL = re.compile(rf"(?:redis\.call\('({COMMANDS})', |\b(add|read|write_fields|write_if_missing|write_delivery)\()")
FIELD = re.compile(r"^\s*'([^']+)'\s*(\.\.)?")


class NumberInBraces(int):
    """A number that shows as `{}` inside a key."""

    def __format__(self, spec: str) -> str:
        return "{}"


def documented_keys() -> dict[str, set[str]]:
    """The key patterns in the page's tables, by the method that makes them."""
    found = re.findall(r"^\| (`rt:[^|]+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    return {method: {re.sub(r"{\w+}", "{}", key) for key in re.findall(r"`([^`]+)`", keys)} for keys, method in found}


def keys_made_by(name: str) -> set[str]:
    """The keys that a method of `Keys` makes, with `{}` for each argument. Empty where the method makes no key."""
    keys, member = Keys("rt:"), vars(Keys)[name]
    if isinstance(member, property):
        rendered = [getattr(keys, name)]
    else:
        parameters = inspect.signature(getattr(keys, name)).parameters.values()
        required = [p for p in parameters if p.default is p.empty]
        values = {p.name: NumberInBraces() if p.annotation in (int, "int") else "{}" for p in required}
        rendered = [getattr(keys, name)(**values)]
        rendered += [getattr(keys, name)(**values | {p.name: None}) for p in required if "None" in str(p.annotation)]
        rendered += [getattr(keys, name)(**values, **{p.name: True}) for p in parameters if p.default is False]
    # A digest stands for the name of a batch's lane.
    return {re.sub(r"[0-9a-f]{18}", "{}", key) for key in rendered if isinstance(key, str) and key.startswith("rt:")}


def arguments(text: str) -> list[str]:
    """The arguments of a call, from the text behind its opening parenthesis."""
    found: list[str] = []
    depth, quoted, start = 1, False, 0
    for i, character in enumerate(text):
        if character == "'":
            quoted = not quoted
        elif quoted:
            continue
        elif character in "({[":
            depth += 1
        elif character in ")}]":
            depth -= 1
            if depth == 0:
                return [*found, text[start:i]]
        elif character == "," and depth == 1:
            found.append(text[start:i])
            start = i + 1
    return found


def named(expressions: list[str]) -> Iterator[str]:
    """The fields among some Lua expressions; a prefix is followed by an opening brace, as in the page."""
    for expression in expressions:
        if match := FIELD.match(expression):
            yield match[1] + ("{" if match[2] else "")


def fields(script: str) -> Iterator[str]:
    """The hash fields that a script names."""
    for listed in re.findall(r"^-- reads \w+: (.+(?:\n--   .+)*)", script, re.MULTILINE):
        yield from re.findall(r"[\w:]+", listed)
    code = re.sub(r"--.*", "", script)
    for call in CALL.finditer(code):
        after_key = arguments(code[call.end() :])[1:]
        command = call[1] or call[2]
        if command.startswith("write_"):
            yield from (key for table in after_key for key in re.findall(r"[{,]\s*(\w+) =", table))
        elif command == "read":
            yield from named([part for table in after_key for part in table.strip(" {}\n").split(",")])
        elif command == "HSET":
            yield from named(after_key[::2])
        elif command in ("HINCRBY", "HSETNX", "add"):
            yield from named(after_key[:1])
        else:
            yield from named(after_key)


def collected_fields() -> dict[str, str]:
    """The fields of all scripts, each with one script that names it."""
    paths = sorted(SCRIPTS.rglob("*.lua"))
    return {field: str(path.relative_to(SCRIPTS)) for path in paths for field in fields(path.read_text())}


def documented_fields() -> set[str]:
    """Every name in the page's tables; a name with a variable part is cut behind its opening brace."""
    table_rows = re.findall(r"^\|.*", PAGE, re.MULTILINE)
    names = {name for row in table_rows for name in re.findall(r"`([^`]+)`", row)}
    return names | {name[: name.index("{") + 1] for name in names if "{" in name}


def is_documented(field: str, documented: set[str]) -> bool:
    """Whether the page has the field, or its prefix and the value behind it: `n:{kind}` and `ingest` for `n:ingest`."""
    prefix, colon, value = field.partition(":")
    return field in documented or (bool(colon) and f"{prefix}:{{" in documented and value in documented)


@pytest.mark.parametrize("name", [name for name in vars(Keys) if not name.startswith("_") and name != "prefix"])
def test_the_page_shows_the_key_that_each_method_makes(name: str):
    assert documented_keys().get(name, set()) == keys_made_by(name)


def test_each_documented_key_has_a_method():
    assert set(documented_keys()) - set(vars(Keys)) == set()
    assert len(documented_keys()) > 40


def test_each_field_of_a_lua_script_is_documented():
    documented = documented_fields()
    collected = collected_fields()
    assert len(collected) > 150
    missing = {field: script for field, script in collected.items() if not is_documented(field, documented)}
    assert missing == {}


@pytest.fixture(scope="module")
def store() -> dict[str, Any]:
    """A recorded store: key -> its type and value."""
    recorded = json.loads(gzip.decompress((ROOT / "tests/data/store_0.1.0.json.gz").read_bytes()))
    assert len(recorded["keys"]) > 100
    return {key.replace("@prefix@:", "rt:"): entry for key, entry in recorded["keys"].items()}


def test_each_key_of_a_recorded_store_is_documented_with_its_type(store: dict[str, Any]):
    documented = []
    for row in re.findall(r"^\| `rt:.*", PAGE, re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for key in re.findall(r"`([^`]+)`", cells[0]):
            pattern = re.sub(r"\\{\w+\\}", "[^:]+", re.escape(key))
            documented += [(re.compile(pattern), cell) for cell in cells[1:3] if cell in TYPES.values()]
    missing = {
        key: entry["type"]
        for key, entry in store.items()
        if not any(kind == TYPES[entry["type"]] and pattern.fullmatch(key) for pattern, kind in documented)
    }
    assert missing == {}


def test_each_field_of_a_recorded_store_is_documented(store: dict[str, Any]):
    documented = documented_fields()
    missing = {
        field: key
        for key, entry in store.items()
        if entry["type"] == "hash" and not FIELDS_ARE_DATA.match(key)
        for field in entry["value"]
        if field not in documented and field.partition(":")[0] + ":{" not in documented
    }
    assert missing == {}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("-- reads read_job: state, n:run,\n--   lane\n--\n-- Text, more text\n", ["state", "n:run", "lane"]),
        ("redis.call('HSET', job, 'state', 'running', 'i:' .. state, at(1, 2))", ["state", "i:{"]),
        ("redis.call('HINCRBY', b.totals, 'ended', -tonumber(x or 0))", ["ended"]),
        ("local a = redis.call('HMGET', key(job, 1), 'a', 'b')", ["a", "b"]),
        ("local m = read(job, {'a', 'b',\n  'c'})", ["a", "b", "c"]),
        ("write_fields(key, {a = '1', b = f({1, 2})})", ["a", "b"]),
        ("-- redis.call('HDEL', job, 'a')", []),
    ],
)
def test_fields_are_collected_from_the_text_of_a_script(script: str, expected: list[str]):
    assert list(fields(script)) == expected
