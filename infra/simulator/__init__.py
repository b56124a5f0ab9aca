"""A simulator of image-edit endpoints: the documented contract, a visible edit, and faults on demand.

It stands in for an endpoint where no account is at hand: in the demo, the tests and the measurements. Run it as
``python -m infra.simulator --port 9100 [--latency-ms 2000 ...]`` or build it with `create_app`. It shares no code with
the rest of Retouch, so that an error of ours is not repeated in what we are tested against.

Models, all served at ``POST /v1/images/edits``:

| model | speaks like | result |
|---|---|---|
| ``step-image-edit-2`` | StepFun | ``url`` or ``b64_json``, seed, finish_reason |
| ``gpt-image-1.5``, ``gpt-image-1`` | OpenAI | ``b64_json`` with usage |
| ``qwen-image-edit`` | vLLM-Omni | ``b64_json`` |
| ``qwen-image-edit-sglang`` | SGLang diffusion | a ``url`` relative to the server, or ``b64_json`` |

Directives in a prompt change what happens to that prompt alone, so that one simulator serves many tests at once.
``*N`` means the first N calls of this exact prompt with this exact image; without it, every call. They are read from
left to right and the first ending one with calls left decides: ``[sim:fail=503*2] [sim:reset*1]`` is two 503s, one
reset, then success. A call refused by a limit uses none of them up.

| directive | effect | ends |
|---|---|---|
| ``[sim:fail=503*2]`` | answers that status with the dialect's own error body | yes |
| ``[sim:429rpm*1]``, ``[sim:429conc*1]`` | 429, as if the requests a minute or the concurrency were reached | yes |
| ``[sim:censored]`` | StepFun: 451 ``censorship_blocked``; others: 400 ``moderation_blocked`` | yes |
| ``[sim:filtered]`` | StepFun: 200, ``content_filtered``, no image (``=image``: with one); others: as censored | yes |
| ``[sim:reset*1]`` | the connection is reset without an answer, before any work (not billed) | yes |
| ``[sim:hang*1]`` | no answer ever; ends when the client goes away (not billed) | yes |
| ``[sim:truncate*1]`` | the answer ends halfway through its Content-Length (billed) | yes |
| ``[sim:garbage*1]`` | 200 whose body is no JSON (billed) | yes |
| ``[sim:drip=64*1]`` | the answer comes at so many bytes a second (billed) | yes |
| ``[sim:oversized=1000000000*1]`` | the answer is padded to so many bytes (billed) | yes |
| ``[sim:badimage*1]`` | the result starts like an image and does not decode (billed) | yes |
| ``[sim:wrongsize*1]`` | the result has half the input's size (billed) | yes |
| ``[sim:latency=500]`` | this call takes 500 ms instead of what the knobs say | no |
| ``[sim:ttl=1]`` | the result can be downloaded for one second | no |
| ``[sim:download_fail*3]`` | the first three downloads of the result answer 503 | no |
| ``[sim:download_truncate*1]`` | the first download of the result ends halfway | no |

A name that is not in the table is refused with 400, so that a slip in a test does not pass as success.

The control plane, which is not part of any endpoint's contract:

| route | does |
|---|---|
| ``GET /_sim/knobs``, ``PATCH /_sim/knobs`` | reads, changes the knobs (`Knobs`) while it runs |
| ``GET /_sim/calls?prompt=&model=&summary=1`` | every edit call, or counts; ``prompt`` is a part of the prompt |
| ``DELETE /_sim/calls`` | forgets the calls and starts the counts of the directives afresh |
| ``GET /_sim/results`` | the results that are kept, with their downloads |
"""

from infra.simulator.app import create_app
from infra.simulator.knobs import Knobs

__all__ = ["Knobs", "create_app"]
