"""The simulated behaviour of one call: by the prompt's directives, else by the knobs and their random rates."""

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
_MAX_PROMPTS = 100_000
_EVERY_DOWNLOAD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DownloadFaults:
    """Faults of one result's downloads: the first ``fail`` answer 503, the next ``truncate`` end halfway."""

    ttl_s: float
    fail: int = 0
    truncate: int = 0


@dataclass(frozen=True, slots=True)
class CallBehaviour:
    """How the simulator answers one call.

    Attributes:
        refusal: the error to answer with.
        fault: the fault of the answer: `reset`, `hang`, `truncate`, `garbage`, `drip`, `oversized`, or empty.
        amount: bytes a second of a drip, bytes of an oversized answer.
        picture: the fault of the result: `bad`, `wrong_size`, or empty.
        filtered: blocked by the content filter: `yes`, `image` (but with the picture), or empty.
    """

    latency_s: float
    downloads: DownloadFaults
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


def _refuse_with_status(directive: _Directive, behaviour: CallBehaviour) -> CallBehaviour:
    status = int(directive.number(500))
    if not 400 <= status <= 599:
        raise invalid(f"simulator directive fail takes a status of 400 to 599, got {status}", "prompt")
    return replace(behaviour, refusal=_status_refusal(status))


def _status_refusal(status: int) -> Refusal:
    reason = {402: "quota", 404: "model", 429: "rpm", 451: "moderation"}.get(status, "")
    if status == 429:
        return _limit_refusal("rpm")
    return Refusal(status, f"simulated status {status}", reason=reason)


def _limit_refusal(reason: str) -> Refusal:
    message = "request limited RPM reached" if reason == "rpm" else "concurrency reached"
    return Refusal(429, f"{message}, current: 11, limit: 10", reason=reason)


def _censored() -> Refusal:
    return Refusal(451, "the prompt or the image was blocked by the content policy", reason="moderation")


_ENDING: dict[str, Callable[[_Directive, CallBehaviour], CallBehaviour]] = {
    "fail": _refuse_with_status,
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
# For these, *N counts downloads of one result, not calls.
_RESULT: dict[str, Callable[[_Directive, DownloadFaults], DownloadFaults]] = {
    "ttl": lambda d, w: replace(w, ttl_s=d.number(1)),
    "download_fail": lambda d, w: replace(w, fail=_EVERY_DOWNLOAD if d.times is None else d.times),
    "download_truncate": lambda d, w: replace(w, truncate=_EVERY_DOWNLOAD if d.times is None else d.times),
}


def _parse(prompt: str) -> list[_Directive]:
    directives = []
    for source in _ANY.findall(prompt):
        match = _DIRECTIVE.fullmatch(source)
        if match is None or match[1] not in {*_ENDING, *_RESULT, "latency"}:
            raise invalid(f"unknown simulator directive {source}", "prompt")
        directives.append(_Directive(match[1], match[2] or "", int(match[3]) if match[3] else None))
    return directives


@dataclass(slots=True)
class FaultInjector:
    """Decides how calls are answered and counts the uses of each directive.

    It counts for the 100,000 most recently used pairs of prompt and image.
    """

    rng: random.Random
    _uses: OrderedDict[tuple[str, str], list[int]] = field(default_factory=OrderedDict)

    def reset(self) -> None:
        """Reset the counts of all directives."""
        self._uses.clear()

    def decide(self, knobs: Knobs, prompt: str, sha256: str) -> CallBehaviour:
        """Decide how to answer one call, and count the directives that it uses.

        Raises:
            Refusal: the prompt has an unknown directive, or a directive with an invalid value.
        """
        behaviour = CallBehaviour(
            latency_s=self._latency_ms(knobs) / 1000, downloads=DownloadFaults(ttl_s=knobs.result_ttl_s)
        )
        directives = _parse(prompt)
        if not directives:
            return self._by_knobs(knobs, prompt, behaviour)
        uses = self._uses.setdefault((prompt, sha256), [0] * len(directives))
        self._uses.move_to_end((prompt, sha256))
        if len(self._uses) > _MAX_PROMPTS:
            self._uses.popitem(last=False)
        ended = False
        for index, directive in enumerate(directives):
            if directive.name in _RESULT:
                behaviour = replace(behaviour, downloads=_RESULT[directive.name](directive, behaviour.downloads))
                continue
            used_up = directive.times is not None and uses[index] >= directive.times
            if used_up or (ended and directive.name in _ENDING):
                continue
            uses[index] += 1
            if directive.name == "latency":
                behaviour = replace(behaviour, latency_s=directive.number(0) / 1000)
            else:
                behaviour = _ENDING[directive.name](directive, behaviour)
                ended = True
        return behaviour if ended else self._by_knobs(knobs, prompt, behaviour)

    def _latency_ms(self, knobs: Knobs) -> float:
        spread = self.rng.uniform(-1, 1) * knobs.latency_jitter_ms if knobs.latency_jitter_ms else 0
        return max(0.0, knobs.latency_ms + spread)

    def _by_knobs(self, knobs: Knobs, prompt: str, behaviour: CallBehaviour) -> CallBehaviour:
        if any(part in prompt for part in knobs.filtered_prompts):
            return replace(behaviour, filtered="yes")
        if knobs.error_statuses and self._occurs(knobs.error_rate):
            return replace(behaviour, refusal=_status_refusal(self.rng.choice(knobs.error_statuses)))
        for rate, fault in (
            (knobs.reset_rate, "reset"),
            (knobs.hang_rate, "hang"),
            (knobs.truncate_rate, "truncate"),
            (knobs.garbage_rate, "garbage"),
        ):
            if self._occurs(rate):
                return replace(behaviour, fault=fault)
        if self._occurs(knobs.bad_image_rate):
            behaviour = replace(behaviour, picture="bad")
        elif knobs.wrong_size:
            behaviour = replace(behaviour, picture="wrong_size")
        if knobs.drip_bytes_per_s:
            return replace(behaviour, fault="drip", amount=knobs.drip_bytes_per_s)
        if knobs.oversized_bytes:
            return replace(behaviour, fault="oversized", amount=knobs.oversized_bytes)
        return behaviour

    def _occurs(self, rate: float) -> bool:
        return rate > 0 and self.rng.random() < rate
