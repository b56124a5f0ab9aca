"""Both dialects against the simulator over HTTP: from a photograph to a verified result."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.simulator.knobs import Knobs
from infra.simulator.serving import serve_in_thread
from jobs.catalogue.catalogue import ModelSpec, load_catalogue
from jobs.foundation.errors import (
    BadResult,
    DownloadFailed,
    EditFailure,
    Filtered,
    ModelTrouble,
    OutcomeUnknown,
    RateLimited,
    RequestRefused,
    ResultGone,
    Transient,
)
from jobs.images.picture import Picture
from jobs.images.probe import probe
from jobs.records.job_models import EditParameters
from workers.dialects import dialect_of
from workers.dialects.calls import EditCall
from workers.edits.verify_result import verify
from workers.net.http import Http

_SPEC = importlib.util.find_spec("skimage")
assert _SPEC is not None
assert _SPEC.submodule_search_locations
PHOTOGRAPH = (Path(_SPEC.submodule_search_locations[0]) / "data" / "rocket.jpg").read_bytes()
GIVEN = probe(PHOTOGRAPH, max_pixels=10_000_000)
MODELS = ("step-image-edit-2", "gpt-image-1.5", "qwen-image-edit", "qwen-image-edit-sglang")
TOML = """
[models.step-image-edit-2]
dialect = "stepfun"
base_url = "{url}"

[models."gpt-image-1.5"]
dialect = "openai"
base_url = "{url}"

[models.qwen-image-edit]
dialect = "openai"
base_url = "{url}"
keeps_size = true
parameters.seed = {{ type = "integer" }}
parameters.steps = {{ type = "integer", wire = "num_inference_steps" }}
parameters.cfg_scale = {{ type = "number", wire = "true_cfg_scale" }}
parameters.negative_prompt = {{ type = "string" }}

[models.qwen-image-edit-sglang]
dialect = "openai"
base_url = "{url}"
response_format = "url"
parameters.seed = {{ type = "integer" }}
parameters.steps = {{ type = "integer", wire = "num_inference_steps" }}
parameters.cfg_scale = {{ type = "number", wire = "guidance_scale" }}
"""
Model = Callable[[str], ModelSpec]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with serve_in_thread(Knobs()) as url:
        path = tmp_path_factory.mktemp("simulated") / "retouch.toml"
        path.write_text(TOML.format(url=f"{url}/v1"))
        yield load_catalogue(path).get


@pytest.fixture(scope="module")
def http() -> Iterator[Http]:
    opened = Http()
    yield opened
    opened.close()


def edited(http: Http, model: ModelSpec, prompt: str, *, key: str = "sim-key", **parameters: object) -> Picture:
    call = EditCall(
        model,
        SecretStr(key),
        PHOTOGRAPH,
        GIVEN.media_type,
        EditParameters.model_validate({"prompt": prompt, **parameters}),
    )
    dialect = dialect_of(model, http)
    answer = dialect.edit(call)
    data = answer.data if answer.url is None else dialect.download(answer.url, model)
    assert data is not None
    return verify(data, GIVEN, model)


@pytest.mark.parametrize("name", MODELS)
def test_a_photograph_is_edited_by_each_kind_of_endpoint(http: Http, model: Model, name: str) -> None:
    assert edited(http, model(name), "make it glow").media_type == "image/png"


@pytest.mark.parametrize("name", ["step-image-edit-2", "qwen-image-edit", "qwen-image-edit-sglang"])
def test_our_parameters_reach_each_endpoint_that_takes_them(http: Http, model: Model, name: str) -> None:
    assert edited(http, model(name), "make it glow", seed=7, steps=8, cfg_scale=4.5).width == GIVEN.width


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("directive", "kind"),
    [
        ("[sim:fail=400]", RequestRefused),
        ("[sim:fail=401]", ModelTrouble),
        ("[sim:fail=500]", Transient),
        ("[sim:fail=503]", Transient),
        ("[sim:429rpm]", RateLimited),
        ("[sim:429conc]", RateLimited),
        ("[sim:censored]", Filtered),
        ("[sim:filtered]", Filtered),
        ("[sim:reset]", OutcomeUnknown),
        ("[sim:truncate]", BadResult),
        ("[sim:garbage]", BadResult),
        ("[sim:badimage]", BadResult),
    ],
)
def test_each_fault_of_an_endpoint_is_one_failure(
    http: Http, model: Model, name: str, directive: str, kind: type[EditFailure]
) -> None:
    with pytest.raises(EditFailure) as caught:
        edited(http, model(name), f"{directive} of {name}")
    assert type(caught.value) is kind
    assert caught.value.trace_id or kind in {OutcomeUnknown, BadResult}


@pytest.mark.parametrize(("directive", "scope"), [("[sim:429rpm]", "rate"), ("[sim:429conc]", "concurrency")])
def test_the_limit_is_read_from_the_429_of_stepfun(http: Http, model: Model, directive: str, scope: str) -> None:
    with pytest.raises(RateLimited) as caught:
        edited(http, model("step-image-edit-2"), directive)
    assert (caught.value.scope, caught.value.limit, caught.value.retry_after_s) == (scope, 10, None)


def test_a_hang_and_a_drip_end_with_the_models_own_deadline(http: Http, model: Model) -> None:
    quick = model("step-image-edit-2").model_copy(update={"timeout_s": 0.5})
    for directive in ("[sim:hang]", "[sim:drip=10]"):
        with pytest.raises(OutcomeUnknown):
            edited(http, quick, directive)


def test_an_answer_of_a_gigabyte_is_refused(http: Http, model: Model) -> None:
    with pytest.raises(BadResult, match="too large"):
        edited(http, model("step-image-edit-2"), "[sim:oversized=1000000000]")


def test_a_stepfun_result_of_another_size_is_bad(http: Http, model: Model) -> None:
    with pytest.raises(BadResult, match="for an input of 640x427"):
        edited(http, model("step-image-edit-2"), "[sim:wrongsize]")


def test_a_download_fails_for_a_while_or_for_good(http: Http, model: Model) -> None:
    spec = model("step-image-edit-2")
    for directive, kind in (("[sim:download_fail*1]", DownloadFailed), ("[sim:download_truncate*1]", DownloadFailed)):
        with pytest.raises(kind):
            edited(http, spec, directive)
    with pytest.raises(ResultGone):
        edited(http, spec, "[sim:ttl=0]")


def test_a_wrong_key_parks_the_model_and_is_not_shown(http: Http, model: Model) -> None:
    with pytest.raises(ModelTrouble, match="renew STEP_API_KEY") as caught:
        edited(http, model("step-image-edit-2"), "x", key="sk-wrong-key")
    assert "sk-wrong-key" not in str(caught.value)


@pytest.mark.parametrize("retired", ["404", "405", "410", "plain"])
def test_a_retired_endpoint_parks_the_model_and_names_the_way_out(http: Http, model: Model, retired: str) -> None:
    with serve_in_thread(Knobs.model_validate({"retired": retired})) as url:
        spec = model("step-image-edit-2").model_copy(update={"base_url": f"{url}/v1"})
        with pytest.raises(ModelTrouble, match=r"configure another model|base_url"):
            edited(http, spec, "x")


@pytest.mark.parametrize("name", ["step-image-edit-2", "gpt-image-1.5"])
def test_an_empty_account_parks_the_model(http: Http, model: Model, name: str) -> None:
    with serve_in_thread(Knobs(quota_exhausted=True)) as url:
        spec = model(name).model_copy(update={"base_url": f"{url}/v1"})
        with pytest.raises(ModelTrouble, match="top it up"):
            edited(http, spec, "x")
