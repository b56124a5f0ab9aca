"""A simulator of image-edit endpoints: the documented contract, a visible edit, and faults on demand.

It replaces a real endpoint in the demo, the tests and the benchmarks, which need no account. Run it as
``python -m infra.simulator --port 9100 [--latency-ms 2000 ...]`` or build it with `create_app`. It shares no code with
the rest of Retouch, so that an error in Retouch is not repeated in the simulator and hidden by it.

Models, all served at ``POST /v1/images/edits``:

| model | dialect | result |
|---|---|---|
| ``step-image-edit-2`` | StepFun | ``url`` or ``b64_json``, seed, finish_reason |
| ``gpt-image-1.5``, ``gpt-image-1`` | OpenAI | ``b64_json`` with usage |
| ``qwen-image-edit`` | vLLM-Omni | ``b64_json`` |
| ``qwen-image-edit-sglang`` | SGLang diffusion | a ``url`` relative to the server, or ``b64_json`` |

A directive in a prompt changes the answer to that prompt only, so that one simulator serves many tests at once.
``*N`` limits a directive to the first N calls with this exact prompt and image; without it, the directive applies to
every call. Directives are read from left to right. The first ending directive that has calls left is applied:
``[sim:fail=503*2] [sim:reset*1]`` gives two 503s, one reset, then success. A call that a limit refuses uses up no
directive.

| directive | effect | ends |
|---|---|---|
| ``[sim:fail=503*2]`` | this status, with the dialect's error body | yes |
| ``[sim:429rpm*1]``, ``[sim:429conc*1]`` | 429, as over the limit of requests a minute, of concurrency | yes |
| ``[sim:censored]`` | StepFun: 451 ``censorship_blocked``; others: 400 ``moderation_blocked`` | yes |
| ``[sim:filtered]`` | StepFun: 200, ``content_filtered``, no image (``=image``: with one); others: as censored | yes |
| ``[sim:reset*1]`` | the connection is reset without an answer, before any work (not billed) | yes |
| ``[sim:hang*1]`` | never answers; ends when the client disconnects (not billed) | yes |
| ``[sim:truncate*1]`` | the answer ends halfway through its Content-Length (billed) | yes |
| ``[sim:garbage*1]`` | 200 with a body that is not JSON (billed) | yes |
| ``[sim:drip=64*1]`` | the answer is sent at this many bytes a second (billed) | yes |
| ``[sim:oversized=1000000000*1]`` | the answer is padded to this many bytes (billed) | yes |
| ``[sim:badimage*1]`` | the result starts like an image but does not decode (billed) | yes |
| ``[sim:wrongsize*1]`` | the result has half the input's size (billed) | yes |
| ``[sim:latency=500]`` | this call takes 500 ms instead of the knobs' latency | no |
| ``[sim:ttl=1]`` | the result can be downloaded for one second | no |
| ``[sim:download_fail*3]`` | the first three downloads of the result answer 503 | no |
| ``[sim:download_truncate*1]`` | the first download of the result ends halfway | no |

Any other name is refused with 400, so that a typing error in a test does not pass as success.

The control plane, which real endpoints do not have:

| route | action |
|---|---|
| ``GET /_sim/knobs``, ``PATCH /_sim/knobs`` | read, change the knobs (`Knobs`) of the running simulator |
| ``GET /_sim/calls?prompt=&model=&summary=1`` | list or count edit calls; ``prompt`` is a part of the prompt |
| ``DELETE /_sim/calls`` | delete the calls and reset the counts of the directives |
| ``GET /_sim/results`` | list the stored results, with their downloads |
"""

from infra.simulator.app import create_app
from infra.simulator.knobs import Knobs

__all__ = ["Knobs", "create_app"]
