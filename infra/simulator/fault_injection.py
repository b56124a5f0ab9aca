"""How one call is to be treated: the prompt's directives first, then the dice of the knobs' rates."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from infra.simulator.form_parsing import Refusal, invalid

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from infra.simulator.knobs import Knobs

_DIRECTIVE = re.compile(r"\[sim:([a-z0-9_]+)(?:=([^\]*]+))?(?:\*([0-9]{1,9}))?\]")
_ANY = re.compile(r"\[sim:[^\]]*\]")
_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Downloads:
    """How the downloads of one result go: first ``fail`` are answered 503, then ``truncate`` end halfway."""

    ttl_s: float
    fail: int = 0
    truncate: int = 0


@dataclass(frozen=True, slots=True)
class Conduct:
    """What is to happen to one call.

    Attributes:
        refusal: the call is answered with this error.
        fault: `reset`, `hang`, `truncate`, `garbage`, `drip` or `oversized`: what happens to the answer.
        amount: of the fault: bytes a second of a drip, bytes of an oversized answer.
        picture: `bad` or `wrong_size`: what is amiss with the result.
        filtered: `yes`, or `image` where the picture comes along.
    """

    latency_s: float
    downloads: Downloads
    refusal: Refusal | None = None
    fault: str = ""
    amount: int = 0
    picture: str = ""
    filtered: str = ""


@dataclass(frozen=True, slots=True)
class _Directive:
    name: str
    value: str
    times: int | None

    def number(self, default: float) -> float:
        try:
            number = float(self.value or default)
        except ValueError:
            number = -1
        if not 0 <= number <= 1e12:
            raise invalid(f"simulator directive {self.name} takes a number, got {self.value!r}", "prompt")
        return number


def _as_status(directive: _Directive, conduct: Conduct) -> Conduct:
    status = int(directive.number(500))
    if not 400 <= status <= 599:
        raise invalid(f"simulator directive fail takes a status of 400 to 599, got {status}", "prompt")
    return replace(conduct, refusal=_status_refusal(status))


def _status_refusal(status: int) -> Refusal:
    reason = {402: "quota", 404: "model", 429: "rpm", 451: "moderation"}.get(status, "")
    if status == 429:
        return _limit_refusal("rpm")
    return Refusal(status, f"simulated status {status}", reason=reason)


def _limit_refusal(reason: str) -> Refusal:
    words = "request limited RPM reached" if reason == "rpm" else "concurrency reached"
    return Refusal(429, f"{words}, current: 11, limit: 10", reason=reason)


def _censored() -> Refusal:
    return Refusal(451, "the prompt or the image was blocked by the content policy", reason="moderation")


_ENDING: dict[str, Callable[[_Directive, Conduct], Conduct]] = {
    "fail": _as_status,
    "429rpm": lambda _, c: replace(c, refusal=_limit_refusal("rpm")),
    "429conc": lambda _, c: replace(c, refusal=_limit_refusal("concurrency")),
    "censored": lambda _, c: replace(c, refusal=_censored()),
    "filtered": lambda d, c: replace(c, filtered="image" if d.value == "image" else "yes"),
    "reset": lambda _, c: replace(c, fault="reset"),
    "hang": lambda _, c: replace(c, fault="hang"),
    "truncate": lambda _, c: replace(c, fault="truncate"),
    "garbage": lambda _, c: replace(c, fault="garbage"),
    "drip": lambda d, c: replace(c, fault="drip", amount=int(d.number(64))),
    "oversized": lambda d, c: replace(c, fault="oversized", amount=int(d.number(1e9))),
    "badimage": lambda _, c: replace(c, picture="bad"),
    "wrongsize": lambda _, c: replace(c, picture="wrong_size"),
}
# Here *N counts downloads of one result, not calls.
_RESULT: dict[str, Callable[[_Directive, Downloads], Downloads]] = {
    "ttl": lambda d, w: replace(w, ttl_s=d.number(1)),
    "download_fail": lambda d, w: replace(w, fail=_REMEMBERED if d.times is None else d.times),
    "download_truncate": lambda d, w: replace(w, truncate=_REMEMBERED if d.times is None else d.times),
}


def _read(prompt: str) -> list[_Directive]:
    directives = []
    for written in _ANY.findall(prompt):
        match = _DIRECTIVE.fullmatch(written)
        if match is None or match[1] not in {*_ENDING, *_RESULT, "latency"}:
            raise invalid(f"unknown simulator directive {written}", "prompt")
        directives.append(_Directive(match[1], match[2] or "", int(match[3]) if match[3] else None))
    return directives


@dataclass(slots=True)
class Conductor:
    """Decides the conduct of calls and remembers how often each directive was used.

    The memory is bounded: of more than 100,000 prompts in use, the longest unused are forgotten.
    """

    rng: random.Random
    _uses: OrderedDict[tuple[str, str], list[int]] = field(default_factory=OrderedDict)

    def forget(self) -> None:
        """Start the counts of all directives afresh."""
        self._uses.clear()

    def decide(self, knobs: Knobs, prompt: str, sha256: str) -> Conduct:
        """Decide about one call, using up what it takes of the prompt's directives.

        Raises:
            Refusal: the prompt has a directive that does not exist or has a wrong value.
        """
        conduct = Conduct(latency_s=self._latency_ms(knobs) / 1000, downloads=Downloads(ttl_s=knobs.result_ttl_s))
        directives = _read(prompt)
        if not directives:
            return self._roll(knobs, prompt, conduct)
        uses = self._uses.setdefault((prompt, sha256), [0] * len(directives))
        self._uses.move_to_end((prompt, sha256))
        if len(self._uses) > _REMEMBERED:
            self._uses.popitem(last=False)
        ended = False
        for place, directive in enumerate(directives):
            if directive.name in _RESULT:
                conduct = replace(conduct, downloads=_RESULT[directive.name](directive, conduct.downloads))
                continue
            spent = directive.times is not None and uses[place] >= directive.times
            if spent or (ended and directive.name in _ENDING):
                continue
            uses[place] += 1
            if directive.name == "latency":
                conduct = replace(conduct, latency_s=directive.number(0) / 1000)
            else:
                conduct = _ENDING[directive.name](directive, conduct)
                ended = True
        return conduct if ended else self._roll(knobs, prompt, conduct)

    def _latency_ms(self, knobs: Knobs) -> float:
        spread = self.rng.uniform(-1, 1) * knobs.latency_jitter_ms if knobs.latency_jitter_ms else 0
        return max(0.0, knobs.latency_ms + spread)

    def _roll(self, knobs: Knobs, prompt: str, conduct: Conduct) -> Conduct:
        if any(part in prompt for part in knobs.filtered_prompts):
            return replace(conduct, filtered="yes")
        if knobs.error_statuses and self._hits(knobs.error_rate):
            return replace(conduct, refusal=_status_refusal(self.rng.choice(knobs.error_statuses)))
        for rate, fault in (
            (knobs.reset_rate, "reset"),
            (knobs.hang_rate, "hang"),
            (knobs.truncate_rate, "truncate"),
            (knobs.garbage_rate, "garbage"),
        ):
            if self._hits(rate):
                return replace(conduct, fault=fault)
        if self._hits(knobs.bad_image_rate):
            conduct = replace(conduct, picture="bad")
        elif knobs.wrong_size:
            conduct = replace(conduct, picture="wrong_size")
        if knobs.drip_bytes_per_s:
            return replace(conduct, fault="drip", amount=knobs.drip_bytes_per_s)
        if knobs.oversized_bytes:
            return replace(conduct, fault="oversized", amount=knobs.oversized_bytes)
        return conduct

    def _hits(self, rate: float) -> bool:
        return rate > 0 and self.rng.random() < rate
