"""Which addresses may be told: what can be known of a URL before anything is resolved. The guard checks again later."""

from jobs.foundation.address_policy import check_url, lies_in, literal, plain_host
from jobs.foundation.errors import InvalidInput
from jobs.foundation.settings import Settings


def check_webhook_url(url: str, settings: Settings) -> None:
    """Refuse a URL that no webhook may be sent to.

    Raises:
        ValueError: one sentence about what is wrong; it does not repeat the URL.
    """
    parts = check_url(url, networks=settings.private_networks, schemes=("https", "http"))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = plain_host(parts.hostname or "")
    address = literal(host) or ("127.0.0.1" if host == "localhost" or host.endswith(".localhost") else None)
    if address is not None and lies_in(address, settings.private_networks):
        return
    if not any(port in ports for ports in settings.port_ranges):
        raise ValueError(f"its port must be one of {settings.webhook_ports}")


def checked_webhook_url(url: str, settings: Settings, field: str = "url") -> str:
    """The same for a field of a request.

    Raises:
        InvalidInput: naming the field.
    """
    try:
        check_webhook_url(url, settings)
    except ValueError as error:
        raise InvalidInput.of(field, str(error), "forbidden_url") from error
    return url
