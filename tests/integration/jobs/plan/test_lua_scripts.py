"""Every script in the form in which it is sent to the server."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis import Redis

import jobs
from jobs.foundation.job_states import TRANSITIONS
from jobs.plan.lua_loader import LuaFile, allowed_table, parse, script_names, source_of
from jobs.webhooks.delivery_models import TRANSITIONS as DELIVERY_TRANSITIONS
from tests.support.lua_scopes import PROVIDED, Names, names_of

FOLDER = Path(jobs.__file__).parent / "lua"
FILES = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.lua"))


def assembled(name: str) -> str:
    return source_of(name, DELIVERY_TRANSITIONS if name.startswith("deliveries/") else TRANSITIONS)


def file(name: str) -> LuaFile:
    return parse(name, (FOLDER / f"{name}.lua").read_text())


@cache
def offer(library: str) -> Names:
    return names_of(allowed_table() if library == "transitions" else file(f"lib/{library}").source)


def unknown_names(lua: LuaFile) -> set[str]:
    """Names that a file uses, and that neither it nor a library that it requires defines."""
    known = {name for library in lua.requires for name in offer(library).local}
    return names_of(lua.source).unknown - known - PROVIDED


@pytest.mark.parametrize("name", script_names())
def test_the_server_compiles_the_script(redis: Redis, name: str) -> None:
    assert redis.script_load(assembled(name))


@pytest.mark.parametrize("name", script_names())
def test_an_assembled_script_uses_no_unknown_global_name(name: str) -> None:
    assert names_of(assembled(name)).unknown <= PROVIDED


@pytest.mark.parametrize("name", script_names())
def test_no_two_parts_of_a_script_define_the_same_name(name: str) -> None:
    repeated = [local for local, number in Counter(names_of(assembled(name)).local).items() if number > 1]
    assert repeated == []


@pytest.mark.parametrize("name", FILES)
def test_a_lua_file_requires_each_library_that_it_uses(name: str) -> None:
    assert unknown_names(file(name)) == set()


@pytest.mark.parametrize("name", FILES)
def test_a_lua_file_uses_each_library_that_it_requires(name: str) -> None:
    lua = file(name)
    used = names_of(lua.source).unknown
    assert [library for library in lua.requires if not used & set(offer(library).local)] == []


def test_a_helper_of_a_library_that_is_not_required_is_unknown() -> None:
    """The checks above can fail."""
    text = "-- requires: base\nflush_counters()\nreturn NOW\n"
    assert unknown_names(parse("jobs/act", text)) == {"flush_counters"}


def test_every_script_has_its_place_in_the_list_of_scripts() -> None:
    assert [name for name in FILES if not name.startswith("lib/")] == list(script_names())


def moments() -> Iterator[datetime]:
    """The first and last ms of each month of 130 years, and random moments."""
    for year in range(1970, 2100):
        for month in range(1, 13):
            first = datetime(year, month, 1, tzinfo=UTC)
            yield first
            if year > 1970 or month > 1:
                yield first - timedelta(milliseconds=1)
    dice = Random(1)
    for _ in range(5_000):
        yield datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=dice.randrange(4_102_444_800_000))


def test_the_utc_day_in_lua_is_that_of_pythons_datetime(redis: Redis) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    expected = {(moment - epoch) // timedelta(milliseconds=1): moment.strftime("%Y-%m-%d") for moment in moments()}
    script = (
        file("lib/calendar").source + "local days = {}\n"
        "for i, ms in ipairs(cjson.decode(ARGV[1])) do days[i] = utc_day(ms) end\n"
        "return days\n"
    )
    days: Any = redis.eval(script, 0, str(list(expected)))
    assert dict(zip(expected, days, strict=True)) == expected


@pytest.mark.parametrize(
    ("ms", "seconds"), [(0, 86_400), (1, 86_400), (1_000, 86_399), (86_399_999, 1), (86_400_000, 86_400)]
)
def test_the_seconds_until_the_next_utc_day_are_rounded_up(redis: Redis, ms: int, seconds: int) -> None:
    script = file("lib/calendar").source + "return seconds_to_next_day(tonumber(ARGV[1]))"
    assert redis.eval(script, 0, ms) == seconds
