"""The Lua scripts as callables: each file of `lua/`, with what it needs before it.

A script on jobs has `core.lua` before it; one that changes a job's state also the table of transitions and
`prelude.lua`. Most of a small script's time would go into making functions that it does not call, so the others go
without.
"""

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


STATELESS = frozenset({"claim", "renew", "depart", "lanes"})
"""Scripts on jobs that change no job's state."""


def source_of(name: str, prelude: str = "prelude", transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> str:
    """The whole text of one script."""
    folder = files("jobs").joinpath("lua")
    before = ""
    if prelude == "prelude":
        before += folder.joinpath("core.lua").read_text()
    if name not in STATELESS:
        before += allowed_table(transitions) + folder.joinpath(f"{prelude}.lua").read_text()
    return before + folder.joinpath(f"{name}.lua").read_text()


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
