"""The words of an endpoint's errors and finish reasons."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """A dialect's words, in lower case. Those of errors are compared with an error's `type` and `code`.

    Attributes:
        trace_headers: headers with the vendor's id of a call, the best first.
        filtered: words of a content refusal, whatever the status.
        quota: words of a used-up account, whatever the status.
        unknown_model: words of an unknown model.
        done: finish reasons of a delivered edit; an answer without a finish reason is a delivered edit, too.
        stopped: finish reasons of an edit that the content filter stopped.
    """

    trace_headers: tuple[str, ...]
    filtered: frozenset[str]
    quota: frozenset[str]
    unknown_model: frozenset[str]
    done: frozenset[str]
    stopped: frozenset[str]
