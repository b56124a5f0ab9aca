"""The words in which an endpoint says what a status alone does not."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """A dialect's own words. They are looked for in an error's `type` and `code`, in lower case.

    Attributes:
        trace_headers: headers that name a call to the vendor's support, the best first.
        filtered: words of a content refusal, whatever the status.
        quota: words of an account that has nothing left, whatever the status.
        unknown_model: words of a model that the endpoint does not serve.
        done: finish reasons of a delivered edit; an answer without a finish reason is delivered too.
        stopped: finish reasons of an edit that the content filter stopped.
    """

    trace_headers: tuple[str, ...]
    filtered: frozenset[str]
    quota: frozenset[str]
    unknown_model: frozenset[str]
    done: frozenset[str]
    stopped: frozenset[str]
