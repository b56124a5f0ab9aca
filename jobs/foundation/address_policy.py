"""Which network addresses a request made on a user's behalf may reach. Pure: nothing is resolved here.

An address that is not plainly public is private. The ranges are IANA's special-purpose registries
(https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry), written out because what
the standard library calls private differs between Python's patch releases.
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
        "169.254.0.0/16",  # link-local: cloud metadata lives here
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
# Addresses that carry an IPv4 address in their last 32 bits: mapped, compatible, NAT64.
_CARRIERS = tuple(ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))
_TEREDO = ipaddress.IPv6Network("2001::/32")
_6TO4 = ipaddress.IPv6Network("2002::/16")


def is_private(address: str | Address) -> bool:
    """Whether an address is anything but plainly public, also by the IPv4 address it carries inside.

    Raises:
        ValueError: the text is no address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return any(parsed in network for network in _PRIVATE_4)
    carried = _carried(parsed)
    if carried:
        return any(is_private(inner) for inner in carried)
    return parsed not in _GLOBAL_6 or any(parsed in network for network in _PRIVATE_6)


def may_reach(address: str | Address, networks: Iterable[Network] = ()) -> bool:
    """Whether an address is public, or lies in one of the private networks that the operator allowed.

    Raises:
        ValueError: the text is no address.
    """
    return not is_private(address) or lies_in(address, networks)


def lies_in(address: str | Address, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of the networks; an IPv4-mapped IPv6 address is the IPv4 address it maps.

    Raises:
        ValueError: the text is no address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed.version == network.version and parsed in network for network in networks)


def literal(host: str) -> Address | None:
    """The address a URL's host spells, in any form that resolvers read; None for a name.

    That is dotted and coloured addresses, and what `inet_aton` takes: decimal (`2130706433`), hexadecimal
    (`0x7f000001`), octal (`0177.0.0.1`) and short (`127.1`) forms, in digits of any script.
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
    """A host as a resolver will read it: compatibility characters folded, lower case, no dot at its end."""
    return unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower().removesuffix(".")


def check_url(
    url: str,
    *,
    networks: Iterable[Network] = (),
    schemes: Collection[str] = ("https",),
    ports: Collection[int] | None = None,
) -> SplitResult:
    """Refuse, before anything is resolved, a URL that a user's request may not name; the guard checks again later.

    `http` is taken besides `schemes` where the operator allowed private networks, and reaches those alone.

    Args:
        url: as the user wrote it.
        networks: private networks that the operator allowed.
        schemes: taken for any host.
        ports: the only ones allowed; None allows every port.

    Returns:
        The URL in its parts.

    Raises:
        ValueError: one sentence about what is wrong; it does not repeat the URL.
    """
    networks = tuple(networks)
    parts = _split(url)
    usual = parts.scheme in schemes
    if not usual and not (parts.scheme == "http" and networks):
        raise ValueError(f"its scheme must be {' or '.join(schemes)}")
    host = parts.hostname
    if not host:
        raise ValueError("it names no host")
    if "@" in parts.netloc:
        raise ValueError("it must not carry a user name or password")
    if ports is not None and (parts.port or {"http": 80}.get(parts.scheme, 443)) not in ports:
        raise ValueError(f"its port must be one of {', '.join(map(str, sorted(ports)))}")
    address = literal(host)
    if address is None and (plain_host(host) == "localhost" or plain_host(host).endswith(".localhost")):
        address = ipaddress.IPv4Address("127.0.0.1")
    if address is not None and not may_reach(address, networks):
        raise ValueError("its host is a private address")
    if address is not None and not usual and not lies_in(address, networks):
        raise ValueError(f"its scheme must be {' or '.join(schemes)}")
    return parts


def _split(url: str) -> SplitResult:
    # urlsplit drops tabs and line ends silently, and a backslash is a slash to some readers and none to others.
    if len(url) > MAX_URL:
        raise ValueError(f"it is longer than {MAX_URL} characters")
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise ValueError("it holds white space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError("it is no URL") from error
    if port == 0:
        raise ValueError("port 0 is none")
    return parts


def _carried(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address makes its packets reach."""
    number = int(address)
    if address in _6TO4:
        return [ipaddress.IPv4Address((number >> 80) & 0xFFFFFFFF)]
    if address in _TEREDO:  # the server, and the client with its bits inverted (RFC 4380)
        return [ipaddress.IPv4Address((number >> 64) & 0xFFFFFFFF), ipaddress.IPv4Address(~number & 0xFFFFFFFF)]
    if any(address in network for network in _CARRIERS):
        return [ipaddress.IPv4Address(number & 0xFFFFFFFF)]
    return []
