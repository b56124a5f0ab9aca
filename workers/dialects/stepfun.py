"""The dialect `stepfun`: https://platform.stepfun.ai/docs, `POST {base_url}/images/edits`.

Errors are `{"error": {"message", "type"}}` without a code. Only the message of a 429 says whether it limits the
requests per minute or the concurrency. The answer to a wrong path is plain text. Results are URLs that need no key.
"""

from workers.dialects.vocabulary import Vocabulary

STEPFUN = Vocabulary(
    trace_headers=("x-trace-id", "x-request-id"),
    filtered=frozenset({"censorship_blocked"}),
    quota=frozenset({"quota_exceeded"}),
    unknown_model=frozenset({"model_not_found"}),
    done=frozenset({"success"}),
    stopped=frozenset({"content_filtered"}),
)
