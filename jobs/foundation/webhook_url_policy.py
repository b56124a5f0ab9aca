"""Which URLs may receive webhooks, without resolving names. The SSRF guard checks the resolved address later."""

from jobs.foundation.address_policy import check_url, lies_in, literal, plain_host
from jobs.foundation.errors import InvalidInput
from jobs.foundation.settings import Settings


def check_webhook_url(url: str, settings: Settings) -> None:
    """Check that webhooks may be sent to a URL.

    Raises:
        ValueError: the URL is not allowed; the message does not repeat it.
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
    """Check the URL in a field of a request and return it.

    Raises:
        InvalidInput: naming the field.
    """
    try:
        check_webhook_url(url, settings)
    except ValueError as error:
        raise InvalidInput.of(field, str(error), "forbidden_url") from error
    return url
