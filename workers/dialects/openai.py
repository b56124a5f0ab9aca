"""The dialect `openai`: https://platform.openai.com/docs/api-reference/images/createEdit, and self-hosted servers.

OpenAI's errors carry a code; a moderation refusal is a 400, and a used-up quota a 429, that only the code tells from
others. vLLM-Omni and SGLang diffusion speak the same route with fields of their own, which the catalogue names; their
errors may come without the outer `error`, and SGLang's `url` may be relative to the server.
"""

from workers.dialects.vocabulary import Vocabulary

OPENAI = Vocabulary(
    trace_headers=("x-request-id", "x-trace-id"),
    filtered=frozenset({"moderation_blocked", "content_policy_violation", "content_filter"}),
    quota=frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}),
    unknown_model=frozenset({"model_not_found"}),
    done=frozenset({"success", "stop"}),
    stopped=frozenset({"content_filtered", "content_filter"}),
)
