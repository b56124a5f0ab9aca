"""The form fields of a request, made from the job's parameters and the model's catalogue entry."""

from jobs.catalogue.catalogue import ModelSpec
from jobs.records.job_models import EditParameters


def fields(model: ModelSpec, parameters: EditParameters) -> dict[str, str]:
    """The fields of the form, without the picture.

    A parameter is sent if the job sets it and the model's entry says that the model uses it.
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
    """A value as text: `true` and `false` in lower case, whole numbers without a decimal point."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
