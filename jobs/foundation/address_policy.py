"""Which network addresses a request on a user's behalf may reach. This module resolves no names.

An address is private unless it is surely public. The ranges are those of IANA's special-purpose registries
(https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry), listed here
because the standard library's private ranges differ between Python's patch releases.
"""

import ipaddress
import socket
import unicodedata
from collections.abc import Collection, Iterable
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2048

_PRIVATE_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, with the metadata services of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_PRIVATE_6 = tuple(ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20"))
# Addresses with an IPv4 address in their last 32 bits: mapped, compatible, NAT64.
_WITH_IPV4 = tuple(ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))
_TEREDO = ipaddress.IPv6Network("2001::/32")
_6TO4 = ipaddress.IPv6Network("2002::/16")


def is_private(address: str | Address) -> bool:
    """Whether an address is not surely public. An embedded IPv4 address counts, too.

    Raises:
        ValueError: the text is not an address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return any(parsed in network for network in _PRIVATE_4)
    embedded = _embedded_ipv4(parsed)
    if embedded:
        return any(is_private(inner) for inner in embedded)
    return parsed not in _GLOBAL_6 or any(parsed in network for network in _PRIVATE_6)


def may_reach(address: str | Address, networks: Iterable[Network] = ()) -> bool:
    """Whether an address is public, or lies in one of the private networks that the operator allowed.

    Raises:
        ValueError: the text is not an address.
    """
    return not is_private(address) or lies_in(address, networks)


def lies_in(address: str | Address, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of the networks. An IPv4-mapped IPv6 address counts as its IPv4 address.

    Raises:
        ValueError: the text is not an address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed.version == network.version and parsed in network for network in networks)


def literal(host: str) -> Address | None:
    """The address in a URL's host, in any form that resolvers accept; None for a name.

    The forms are those with dots or colons and those of `inet_aton`: decimal (`2130706433`), hexadecimal
    (`0x7f000001`), octal (`0177.0.0.1`) and short (`127.1`), in digits of any script.
    """
    text = plain_host(host)
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, UnicodeEncodeError):
        return None


def plain_host(host: str) -> str:
    """A host in the form that resolvers read: compatibility characters folded, lower case, no final dot."""
    return unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower().removesuffix(".")


def check_url(
    url: str,
    *,
    networks: Iterable[Network] = (),
    schemes: Collection[str] = ("https",),
    ports: Collection[int] | None = None,
) -> SplitResult:
    """Check a user's URL without resolving its host. The SSRF guard checks the resolved address later.

    If the operator allowed private networks, `http` is accepted, too, and reaches only those networks.

    Args:
        url: as the user wrote it.
        networks: private networks that the operator allowed.
        schemes: accepted for any host.
        ports: the allowed ports; None allows every port.

    Returns:
        The parts of the URL.

    Raises:
        ValueError: the URL is not allowed; the message does not repeat it.
    """
    networks = tuple(networks)
    parts = _split(url)
    scheme_allowed = parts.scheme in schemes
    if not scheme_allowed and not (parts.scheme == "http" and networks):
        raise ValueError(f"its scheme must be {' or '.join(schemes)}")
    host = parts.hostname
    if not host:
        raise ValueError("it has no host")
    if "@" in parts.netloc:
        raise ValueError("it must not have a user name or password")
    if ports is not None and (parts.port or {"http": 80}.get(parts.scheme, 443)) not in ports:
        raise ValueError(f"its port must be one of {', '.join(map(str, sorted(ports)))}")
    address = literal(host)
    if address is None and (plain_host(host) == "localhost" or plain_host(host).endswith(".localhost")):
        address = ipaddress.IPv4Address("127.0.0.1")
    if address is not None and not may_reach(address, networks):
        raise ValueError("its host is a private address")
    if address is not None and not scheme_allowed and not lies_in(address, networks):
        raise ValueError(f"its scheme must be {' or '.join(schemes)}")
    return parts


def _split(url: str) -> SplitResult:
    # urlsplit silently removes tabs and line ends. Some clients read a backslash as a slash, others do not.
    if len(url) > MAX_URL:
        raise ValueError(f"it is longer than {MAX_URL} characters")
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise ValueError("it has white space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError("it is not a valid URL") from error
    if port == 0:
        raise ValueError("port 0 is invalid")
    return parts


def _embedded_ipv4(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that packets to an IPv6 address reach."""
    number = int(address)
    if address in _6TO4:
        return [ipaddress.IPv4Address((number >> 80) & 0xFFFFFFFF)]
    if address in _TEREDO:  # the server, and the client with its bits inverted (RFC 4380)
        return [ipaddress.IPv4Address((number >> 64) & 0xFFFFFFFF), ipaddress.IPv4Address(~number & 0xFFFFFFFF)]
    if any(address in network for network in _WITH_IPV4):
        return [ipaddress.IPv4Address(number & 0xFFFFFFFF)]
    return []
