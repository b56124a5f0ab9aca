"""The Lua scripts as callables: each file of `lua/`, with the table of transitions and the prelude before it."""

from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.commands.core import Script

from jobs.states import TRANSITIONS

ScriptCall = Callable[[Sequence[str], Sequence[Any]], Any]


def allowed_table(transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> str:
    """A table of transitions as Lua source: the scripts know no other one."""
    entries = "".join(f"['{source}>{target}'] = true, " for source, target in transitions)
    return f"local ALLOWED = {{{entries}}}\n"


def source_of(name: str, prelude: str = "prelude", transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> str:
    """The whole text of one script."""
    folder = files("jobs").joinpath("lua")
    before = folder.joinpath(f"{prelude}.lua").read_text()
    return allowed_table(transitions) + before + folder.joinpath(f"{name}.lua").read_text()


def load(
    redis: Redis, name: str, prelude: str = "prelude", transitions: Iterable[tuple[str, str]] = TRANSITIONS
) -> Script:
    """The script `lua/NAME.lua`, sent by its digest and loaded where the server does not know it yet.

    Args:
        redis: where it runs.
        name: of its file.
        prelude: what stands before it.
        transitions: (from, to) that its prelude shall allow.
    """
    return redis.register_script(source_of(name, prelude, transitions))
