from pathlib import Path

import pytest

from jobs.plan.lua_loader import LuaSourceError, LuaSources, parse

GENERATED = {"transitions": "local ALLOWED = {}\n"}


def sources(folder: Path, **texts: str) -> LuaSources:
    """A folder of these libraries, and a script `jobs/act` that is given as `script`."""
    script = texts.pop("script")
    (folder / "lib").mkdir()
    (folder / "jobs").mkdir()
    (folder / "jobs" / "act.lua").write_text(script)
    for name, text in texts.items():
        (folder / "lib" / f"{name}.lua").write_text(text)
    return LuaSources(folder, GENERATED)


def test_each_library_appears_once_after_the_libraries_it_requires(tmp_path: Path) -> None:
    lua = sources(
        tmp_path,
        base="-- requires: nothing\nlocal base = 1\n",
        left="-- requires: base\nlocal left = base\n",
        right="-- requires: base, left\nlocal right = left\n",
        unused="-- requires: nothing\nlocal unused = 1\n",
        script="-- requires: right, left\nreturn right\n",
    )
    code = [line for line in lua.assemble("jobs/act").splitlines() if line and not line.startswith("--")]
    assert code == ["local base = 1", "local left = base", "local right = left", "return right"]


def test_a_generated_library_appears_where_it_is_required(tmp_path: Path) -> None:
    lua = sources(
        tmp_path, state="-- requires: transitions\nlocal state = ALLOWED\n", script="-- requires: state\nreturn state\n"
    )
    text = lua.assemble("jobs/act")
    assert text.index("local ALLOWED = {}") < text.index("local state")


def test_a_script_that_requires_nothing_is_its_own_text(tmp_path: Path) -> None:
    text = "-- requires: nothing\nreturn 1\n"
    assert sources(tmp_path, script=text).assemble("jobs/act") == text


def test_an_unknown_library_is_refused_with_the_name_of_who_requires_it(tmp_path: Path) -> None:
    lua = sources(tmp_path, base="-- requires: nowhere\n", script="-- requires: base\n")
    with pytest.raises(LuaSourceError, match="base requires the library nowhere, which does not exist"):
        lua.assemble("jobs/act")


def test_libraries_that_require_each_other_are_refused(tmp_path: Path) -> None:
    lua = sources(tmp_path, left="-- requires: right\n", right="-- requires: left\n", script="-- requires: left\n")
    with pytest.raises(LuaSourceError, match="require each other: jobs/act -> left -> right -> left"):
        lua.assemble("jobs/act")


@pytest.mark.parametrize("text", ["return 1\n", "-- requires: a\n-- requires: b\n", "\n-- requires: a\n"])
def test_a_file_needs_exactly_one_requires_in_its_header(text: str) -> None:
    with pytest.raises(LuaSourceError, match="jobs/act needs one line"):
        parse("jobs/act", text)


def test_a_list_continues_on_the_next_line_after_a_comma() -> None:
    file = parse("jobs/act", "-- requires: base,\n--   lanes\n-- reads read_job: state,\n--   n:ingest\nreturn 1\n")
    assert file.requires == ("base", "lanes")
    assert file.readers == {"read_job": ("state", "n:ingest")}


def test_a_comment_that_is_not_a_list_is_ignored() -> None:
    file = parse("jobs/act", "-- requires: base\n-- What it reads: the job.\nlocal x = 1\n-- reads read_x: a\n")
    assert file.requires == ("base",)
    assert file.readers == {}


def test_a_reader_uses_one_list_for_reading_and_naming() -> None:
    file = parse("jobs/act", "-- requires: nothing\n-- reads read_job: state, n:ingest\n")
    reader = file.source.splitlines()[0]
    assert "redis.call('HMGET', key, 'state', 'n:ingest')" in reader
    assert "{['state'] = v[1], ['n:ingest'] = v[2]}" in reader
