"""The dialect `openai`: https://platform.openai.com/docs/api-reference/images/createEdit, and self-hosted servers.

OpenAI's errors have a code. Only the code distinguishes a moderation refusal from other 400s, and a used-up quota from
other 429s. vLLM-Omni and SGLang diffusion have the same route with additional fields, which the catalogue names. Their
errors may lack the outer `error`, and SGLang's `url` may be relative to the server.
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
