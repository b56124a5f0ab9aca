"""The addresses and URLs that a user's request may have."""

import ipaddress

import pytest

from jobs.foundation.address_policy import check_url, is_private, lies_in, literal, may_reach
from jobs.foundation.settings import parse_networks

PRIVATE = (
    "0.0.0.0",  # noqa: S104
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0a00:0001",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001:db8::1",
    "2001:2::1",
    "2001:10::1",
    "2002:7f00:0001::1",
    "2002:a9fe:a9fe::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:0:7f00:1:0:0:f7f7:f7f7",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456:789a::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
)
PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:0808:0808::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_surely_public_is_private(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not_private(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0", "0.0.0.0"),  # noqa: S104
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("①27.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::ffff:7f00:1", "::ffff:127.0.0.1"),
    ],
)
def test_an_address_is_read_in_every_form_that_resolvers_accept(host: str, address: str) -> None:
    assert literal(host) == ipaddress.ip_address(address)


@pytest.mark.parametrize("host", ["example.com", "1.2.3.4.example.com", "0x7f000001.example", "localhost", "a.b.c.d"])
def test_a_host_name_is_not_an_address(host: str) -> None:
    assert literal(host) is None


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://example.com/a.png", "scheme"),
        ("ftp://example.com/a.png", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://example.com/", "scheme"),
        ("//example.com/a.png", "scheme"),
        ("example.com/a.png", "scheme"),
        ("", "scheme"),
        ("https://", "host"),
        ("https:///a.png", "host"),
        ("https://user@example.com/", "user name"),
        ("https://user:secret@example.com/", "user name"),
        ("https://:@example.com/", "user name"),
        ("https://127.0.0.1/", "private"),
        ("https://127.0.0.1:8443/", "private"),
        ("https://169.254.169.254/latest/meta-data", "private"),
        ("https://2130706433/", "private"),
        ("https://0x7f.0.0.1/", "private"),
        ("https://0177.1/", "private"),
        ("https://[::1]/", "private"),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("https://[fe80::1%25eth0]/", "private"),
        ("https://localhost/", "private"),
        ("https://LOCALHOST./", "private"),
        ("https://db.localhost/", "private"),
        ("https://\uff11\uff12\uff17.0.0.1/", "private"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "not a valid URL"),
        ("https://example.com:x/", "not a valid URL"),
        ("https://[::1/", "not a valid URL"),
        ("https://example.com\\@127.0.0.1/", "backslash"),
        ("https://example.com/a b.png", "white space"),
        ("https://exam\nple.com/", "white space"),
        ("https://example.com/\x00", "control"),
        ("https://example.com/" + "a" * 2048, "longer"),
    ],
)
def test_a_forbidden_url_is_refused_with_a_reason(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        check_url(url)


@pytest.mark.parametrize("url", ["https://example.com/a.png", "https://8.8.8.8:8443/x?y=z#w", "HTTPS://Example.com"])
def test_a_public_https_url_is_accepted(url: str) -> None:
    assert check_url(url).hostname


def test_a_refusal_does_not_repeat_the_url() -> None:
    with pytest.raises(ValueError, match="user name") as caught:
        check_url("https://user:hunter2@example.com/")
    assert "hunter2" not in str(caught.value)


def test_http_is_accepted_only_for_allowed_private_networks() -> None:
    networks = parse_networks("10.0.0.0/8")
    check_url("http://10.2.3.4/a.png", networks=networks)
    check_url("https://10.2.3.4/a.png", networks=networks)
    check_url("http://pictures.intranet/a.png", networks=networks)  # the SSRF guard checks the resolved address
    with pytest.raises(ValueError, match="private"):
        check_url("http://192.168.0.1/a.png", networks=networks)
    with pytest.raises(ValueError, match="scheme"):
        check_url("http://8.8.8.8/a.png", networks=networks)
    with pytest.raises(ValueError, match="private"):
        check_url("https://127.0.0.1/a.png", networks=networks)


def test_ports_can_be_limited() -> None:
    check_url("https://example.com/", ports={443})
    with pytest.raises(ValueError, match="port"):
        check_url("https://example.com:22/", ports={443})


def test_ipv4_mapped_addresses_match_an_allowed_network() -> None:
    networks = parse_networks("127.0.0.0/8")
    assert may_reach("127.0.0.1", networks)
    assert may_reach("::ffff:127.0.0.1", networks)
    assert not may_reach("::1", networks)
    assert not may_reach("169.254.169.254", networks)
    assert may_reach("169.254.169.254", parse_networks("true"))
    assert may_reach("::1", parse_networks("true"))
    assert lies_in("::ffff:127.0.0.1", networks)
    assert not lies_in("8.8.8.8", networks)
