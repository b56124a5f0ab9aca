"""Our parameters as an endpoint's form fields, by the catalogue's entry."""

from jobs.catalogue.catalogue import ModelSpec
from jobs.records.job_models import EditParameters


def fields(model: ModelSpec, parameters: EditParameters) -> dict[str, str]:
    """The fields of the form beside the picture.

    A parameter that is not given is not sent, nor one that the model does not take or does not act on.
    """
    form = {"model": model.provider_model, "prompt": parameters.prompt or ""}
    for name, rule in model.parameters.items():
        value = getattr(parameters, name)
        if value is not None and rule.send:
            form[rule.wire or name] = spelled(value)
    if model.response_format:
        form["response_format"] = model.response_format
    return form


def spelled(value: object) -> str:
    """A value as forms carry it: `true` and `false` in lower case, no needless zero behind a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
