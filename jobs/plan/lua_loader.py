"""The Lua scripts as callables: each file of `lua/`, with what it uses of the preludes before it.

A script on jobs may use `core.lua`, the table of transitions and `prelude.lua`, one on deliveries `deliver_prelude.lua`
in their stead. A script is made anew each time it is called, and most of a small one's time would go into functions
that it does not call: so of a prelude it gets the blocks that it names, and those that they name.
"""

import re
from collections.abc import Iterable
from importlib.resources import files

from redis import Redis
from redis.commands.core import Script

from jobs.foundation.job_states import TRANSITIONS

_PRELUDES = {"prelude": ("core", "prelude"), "deliver_prelude": ("deliver_prelude",)}
_COMMENT = re.compile(r"--.*")
_TEXT = re.compile(r"'[^']*'")
_WORD = re.compile(r"[A-Za-z_]\w*")
_DEFINITION = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)


def allowed_table(transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> str:
    """A table of transitions as Lua source: the scripts know no other one."""
    entries = "".join(f"['{source}>{target}'] = true, " for source, target in transitions)
    return f"local ALLOWED = {{{entries}}}\n"


def source_of(name: str, prelude: str = "prelude", transitions: Iterable[tuple[str, str]] = TRANSITIONS) -> str:
    """The whole text of one script."""
    before = [allowed_table(transitions), *(text for part in _PRELUDES[prelude] for text in _blocks(_text(part)))]
    script = _text(name)
    used, wanted = [], _words(script)
    for block in reversed(before):
        if wanted & _defined(block):
            used.append(block)
            wanted |= _words(block)
    return "\n".join([*reversed(used), script])


def _text(name: str) -> str:
    return files("jobs").joinpath("lua", f"{name}.lua").read_text()


def _blocks(source: str) -> list[str]:
    """What stands between blank lines: a function, or names that belong together, with their comment."""
    return [f"{block}\n" for block in source.split("\n\n")]


def _words(source: str) -> set[str]:
    return set(_WORD.findall(_TEXT.sub("", _COMMENT.sub("", source))))


def _defined(block: str) -> set[str]:
    return {name for names in _DEFINITION.findall(block) for name in _WORD.findall(names)}


def load(
    redis: Redis, name: str, prelude: str = "prelude", transitions: Iterable[tuple[str, str]] = TRANSITIONS
) -> Script:
    """The script `lua/NAME.lua`, sent by its digest and loaded where the server does not know it yet.

    Args:
        redis: where it runs.
        name: of its file.
        prelude: whose blocks it may use: `prelude`, which stands for `core` and it, or `deliver_prelude`.
        transitions: (from, to) that the prelude shall allow.
    """
    return redis.register_script(source_of(name, prelude, transitions))
