"""How endpoints are spoken to: prepare, call, read the answer. Whatever goes wrong leaves as an `EditFailure`."""

from jobs.catalogue.catalogue import ModelSpec
from workers.dialects.calls import Answer, Dialect, EditCall
from workers.dialects.endpoint import Endpoint
from workers.dialects.openai import OPENAI
from workers.dialects.stepfun import STEPFUN
from workers.net.http import Http

_VOCABULARIES = {"stepfun": STEPFUN, "openai": OPENAI}


def dialect_of(model: ModelSpec, http: Http) -> Dialect:
    """The dialect that a model's endpoint speaks."""
    return Endpoint(http, _VOCABULARIES[model.dialect])


__all__ = ["Answer", "Dialect", "EditCall", "dialect_of"]
