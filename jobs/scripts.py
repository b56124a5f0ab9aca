"""The Lua scripts as callables: each file of `lua/`, with the table of transitions and the prelude before it."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.commands.core import Script

from jobs.states import TRANSITIONS

ScriptCall = Callable[[Sequence[str], Sequence[Any]], Any]


def allowed_table() -> str:
    """states.TRANSITIONS as Lua source: the scripts know no other table."""
    entries = "".join(f"['{source}>{target}'] = true, " for source, target in TRANSITIONS)
    return f"local ALLOWED = {{{entries}}}\n"


def source_of(name: str) -> str:
    """The whole text of one script."""
    folder = files("jobs").joinpath("lua")
    prelude = folder.joinpath("prelude.lua").read_text()
    return allowed_table() + prelude + folder.joinpath(f"{name}.lua").read_text()


def load(redis: Redis, name: str) -> Script:
    """The script `lua/NAME.lua`, sent by its digest and loaded where the server does not know it yet."""
    return redis.register_script(source_of(name))
