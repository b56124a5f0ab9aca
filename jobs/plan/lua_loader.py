"""Loads the Lua scripts: each file of `lua/`, after the libraries of `lua/lib/` that it requires.

The comment at the top of a script or library is its header. These lines of it are read here:

    -- requires: base, lanes
    -- reads read_job: state, attempt, n:ingest

`requires` names libraries, or `nothing`; every file has it. `reads` defines a function that reads these fields of a
hash and returns them by name: `read_job(key).attempt`, false where the hash has no such field. It is generated, because
a table whose fields are named in its constructor costs half of one that grows field by field, and because one list then
serves reading and naming. A list that ends with a comma continues on the next comment line.

A script's functions are created anew at each call. So libraries are small, and a script requires those that it uses.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from redis import Redis
from redis.commands.core import Script

from jobs.foundation.job_states import TRANSITIONS

LIBRARIES = "lib"
"""The folder of the libraries; the other folders hold scripts."""
GENERATED = "transitions"
"""The library that is generated from a table of transitions."""


class LuaSourceError(Exception):
    """A script or library has a faulty header, or requires what does not exist or requires itself."""


@dataclass(frozen=True)
class LuaFile:
    """A script or library.

    Attributes:
        requires: names of the libraries that it uses itself.
        readers: name of each function that its header defines -> the fields that it reads.
        text: the whole file.
    """

    requires: tuple[str, ...]
    readers: Mapping[str, tuple[str, ...]]
    text: str

    @property
    def source(self) -> str:
        """Its Lua text after the functions that its header defines."""
        return "".join(map(_reader, self.readers, self.readers.values())) + self.text


class LuaSources:
    """The scripts and libraries of one folder.

    Args:
        folder: has a folder `lib` of libraries, and folders of scripts.
        generated: further libraries: name -> Lua text.
    """

    def __init__(self, folder: Traversable, generated: Mapping[str, str]) -> None:
        self._folder = folder
        self._generated = generated

    def assemble(self, name: str) -> str:
        """The text of a script after its libraries, each once and after those that it requires.

        Args:
            name: the script's path without its ending, such as `jobs/submit`.

        Raises:
            LuaSourceError: a file does not exist or has a faulty header, or libraries require each other.
        """
        script = self._file(name)
        order: dict[str, str] = {}
        for library in script.requires:
            self._resolve(library, (name,), order)
        return "\n".join([*order.values(), script.source])

    def _resolve(self, library: str, path: tuple[str, ...], order: dict[str, str]) -> None:
        """Add a library to `order`, after those that it requires. `path` leads from the script to it."""
        if library in path:
            raise LuaSourceError(f"libraries require each other: {' -> '.join([*path, library])}")
        if library in order:
            return
        if library in self._generated:
            order[library] = self._generated[library]
            return
        try:
            file = self._file(f"{LIBRARIES}/{library}")
        except FileNotFoundError as error:
            raise LuaSourceError(f"{path[-1]} requires the library {library}, which does not exist") from error
        for required in file.requires:
            self._resolve(required, (*path, library), order)
        order[library] = file.source

    def _file(self, name: str) -> LuaFile:
        return parse(name, self._folder.joinpath(f"{name}.lua").read_text())


def parse(name: str, text: str) -> LuaFile:
    """Read the header of a script or library.

    Args:
        name: for messages.
        text: the whole file.

    Raises:
        LuaSourceError: it has no `requires`, or not one `requires` alone.
    """
    requires = []
    readers = {}
    for key, values in _header(text):
        if key == "requires":
            requires.append(values)
        elif key.startswith("reads "):
            readers[key.removeprefix("reads ")] = values
    if len(requires) != 1:
        raise LuaSourceError(f"{name} needs one line `-- requires: …` in its header")
    return LuaFile(() if requires[0] == ("nothing",) else requires[0], readers, text)


def _header(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The lists in the comment at the top: key and values of each."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith("--"):
            return
        key, colon, values = line.removeprefix("--").strip().partition(":")
        if not colon or not (key == "requires" or key.startswith("reads ")):
            continue
        while values.endswith(","):
            values += next(lines, "").removeprefix("--")
        yield key, tuple(value.strip() for value in values.split(","))


def _reader(name: str, fields: tuple[str, ...]) -> str:
    """A Lua function that reads these fields of a hash."""
    names = ", ".join(f"'{field}'" for field in fields)
    values = ", ".join(f"['{field}'] = v[{number}]" for number, field in enumerate(fields, 1))
    return f"local function {name}(key) local v = redis.call('HMGET', key, {names}); return {{{values}}} end\n"


def allowed_table(transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> str:
    """A table of transitions as Lua source. The scripts have no other one."""
    entries = "".join(f"['{source}>{target}'] = true, " for source, target in transitions)
    return f"local ALLOWED = {{{entries}}}\n"


@cache
def script_names() -> tuple[str, ...]:
    """The names of all scripts, sorted."""
    folders = [folder for folder in _folder().iterdir() if folder.is_dir() and folder.name != LIBRARIES]
    return tuple(
        sorted(
            f"{folder.name}/{file.name.removesuffix('.lua')}"
            for folder in folders
            for file in folder.iterdir()
            if file.name.endswith(".lua")
        )
    )


def source_of(name: str, transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> str:
    """The whole text of one script; arguments as for `load`."""
    return LuaSources(_folder(), {GENERATED: allowed_table(transitions)}).assemble(name)


def load(redis: Redis, name: str, transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> Script:
    """A script, sent by its digest and loaded where the server does not know it yet.

    Args:
        redis: where it runs.
        name: the path of its file in `lua/` without its ending, such as `jobs/submit`.
        transitions: (from, to) that it allows.
    """
    return redis.register_script(source_of(name, transitions))


def _folder() -> Traversable:
    return files("jobs").joinpath("lua")
