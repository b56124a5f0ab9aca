"""The dialects of endpoints: prepare the request, call, read the answer. Every error becomes an `EditFailure`."""

from jobs.catalogue.catalogue import ModelSpec
from workers.dialects.calls import Answer, Dialect, EditCall
from workers.dialects.endpoint import Endpoint
from workers.dialects.openai import OPENAI
from workers.dialects.stepfun import STEPFUN
from workers.net.http import Http

_VOCABULARIES = {"stepfun": STEPFUN, "openai": OPENAI}


def dialect_of(model: ModelSpec, http: Http) -> Dialect:
    """The dialect of a model's endpoint."""
    return Endpoint(http, _VOCABULARIES[model.dialect])


__all__ = ["Answer", "Dialect", "EditCall", "dialect_of"]
