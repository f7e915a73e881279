import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_pipeline.adapters.fetching.allowed_hosts import AllowedHosts, as_requested, is_public
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.nat64 import LENGTHS, discovered, embedded

HOSTS = AllowedHosts(["Images.Example.com", "köln.example", "http://127.0.0.1:8123", " "], "SMI_ALLOWED_SOURCE_HOSTS")


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("https://images.example.com/a.png", "https://images.example.com/a.png"),
        ("HTTPS://IMAGES.example.COM/a.png", "https://images.example.com/a.png"),
        ("https://images.example.com.", "https://images.example.com/"),
        ("https://images.example.com:443/a", "https://images.example.com/a"),
        ("https://images.example.com/a.png?w=1&x=%2F#frag", "https://images.example.com/a.png?w=1&x=%2F"),
        ("https://images.example.com/Bild für dich.png", "https://images.example.com/Bild%20f%C3%BCr%20dich.png"),
        ("https://images.example.com/a%20b.png", "https://images.example.com/a%20b.png"),
        ("https://images.example.com?x=1", "https://images.example.com/?x=1"),
        ("https://KÖLN.example/a", "https://xn--kln-sna.example/a"),
        ("https://xn--kln-sna.example/a", "https://xn--kln-sna.example/a"),
        ("http://127.0.0.1:8123/a", "http://127.0.0.1:8123/a"),
    ],
)
def test_a_url_on_the_list_is_taken_as_it_will_be_requested(url: str, requested: str) -> None:
    assert str(HOSTS.check(url)) == requested
    assert as_requested(url) == requested, "Upsampler gets it in the same form"
    assert as_requested(requested) == requested


@pytest.mark.parametrize("url", ["", "not a url", "https://[", "ftp://images.example.com/ä", "https://a..b/x y"])
def test_what_cannot_be_requested_is_not_rewritten(url: str) -> None:
    assert as_requested(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.com/", "https://example.com/", "https://images.example.com.evil.com/",
        "https://evil-images.example.com/", "https://sub.images.example.com/", "https://images.example.com@evil.com/",
        "https://user:pass@images.example.com/", "https://@images.example.com/", "https://images.example.com:8443/",
        "https://images.example.com:0/", "https://images.example.com:99999/", "https://images.example.com:x/",
        "http://images.example.com/", "ftp://images.example.com/", "file:///etc/passwd", "gopher://images.example.com/",
        "javascript:alert(1)", "data:image/png;base64,AAAA", "//images.example.com/", "images.example.com/a.png", "",
        "https:///a.png", "https://", "https:images.example.com/", "https:/images.example.com/",
        "https://images.example.com\\@evil.com/", "https://evil.com\\images.example.com/",
        "https:\\\\images.example.com/",
        "https://images.example.com/\r\nHost: evil.com", "https://images.exa\tmple.com/", " https://images.example.com/",
        "https://images.example.com/\x00", "https://images.example.com /", "https://images%2eexample.com/",
        "https://127.0.0.1/", "https://127.0.0.1:8123/", "http://127.0.0.1/", "http://127.0.0.1:8124/",
        "http://127.0.0.1:08123/", "http://127.1:8123/", "http://localhost:8123/", "http://2130706433:8123/",
        "http://0x7f000001:8123/", "http://0177.0.0.1:8123/", "http://127.0.0.1.:8123/", "http://user@127.0.0.1:8123/",
        "http://１２７.0.0.1:8123/", "http://[::1]:8123/", "http://[::ffff:127.0.0.1]:8123/", "https://[::1]/",
        "https://[fe80::1%25eth0]/", "https://[", "https://images.example.com\uff0f.evil.com/", "https://xn--a/",
        "https://images.example.com/" + "a" * 5000, "https://\ud800.example/", "https://images.example.com/\ud800",
        "https://images\u3002example.evil/",
    ],
)  # fmt: skip
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(RefusedError):
        HOSTS.check(url)


def test_a_look_alike_dot_of_unicode_means_the_same_name_and_no_other() -> None:
    assert HOSTS.check("https://images\u3002example\u3002com/").host == "images.example.com"


@given(st.text(max_size=60))
def test_whatever_is_thrown_at_it_is_refused_or_leads_to_a_listed_host(text: str) -> None:
    for url in (text, f"https://{text}", f"https://images.example.com{text}", f"http://127.0.0.1:8123{text}"):
        try:
            checked = HOSTS.check(url)
        except RefusedError:
            continue
        assert (checked.scheme, checked.host, checked.port) in (
            ("https", "images.example.com", 443),
            ("https", "xn--kln-sna.example", 443),
            ("http", "127.0.0.1", 8123),
        )
        assert checked.target.startswith("/")
        assert checked.target.isascii()
        assert not set(checked.target) & set(" \r\n\t#\\")


def test_an_empty_list_refuses_and_names_its_setting() -> None:
    with pytest.raises(RefusedError, match="set SMI_ALLOWED_RESULT_HOSTS"):
        AllowedHosts([], "SMI_ALLOWED_RESULT_HOSTS").check("https://images.example.com/")


@pytest.mark.parametrize(
    "entry",
    [
        "https://images.example.com", "images.example.com/path", "images.example.com:443", "*.example.com", "*",
        "http://127.0.0.1", "http://127.0.0.1:0", "http://127.0.0.1:99999", "http://localhost:80", "http://10.0.0.1:80",
        "[::1]", "user@images.example.com", "a b", "-x.example",
    ],
)  # fmt: skip
def test_an_entry_that_is_no_host_name_is_refused_with_the_name_of_the_setting(entry: str) -> None:
    with pytest.raises(ValueError, match="SMI_ALLOWED_SOURCE_HOSTS"):
        AllowedHosts([entry], "SMI_ALLOWED_SOURCE_HOSTS")


def test_a_list_may_come_as_it_stands_in_the_environment() -> None:
    hosts = AllowedHosts("a.example.com, http://127.0.0.1:81", "SMI_ALLOWED_SOURCE_HOSTS")
    assert hosts.check("https://a.example.com/").host == "a.example.com"
    assert hosts.check("http://127.0.0.1:81/").is_local


def test_a_checked_url_is_escaped_and_has_no_fragment() -> None:
    hosts = AllowedHosts(["images.example.com"], "SMI_ALLOWED_SOURCE_HOSTS")
    assert str(hosts.check("https://Images.example.com/a b.png#x")) == "https://images.example.com/a%20b.png"
    for url in ("https://evil.example/", "http://images.example.com/", "nonsense", ""):
        with pytest.raises(RefusedError) as caught:
            hosts.check(url)
        assert caught.value.status == 400


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:82b::200e"])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.169.254",
        "100.64.0.1", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8",
        "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1",
        "64:ff9b:1::808:808", "2002:7f00:1::1", "2002:808:808::1", "2001::1",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1", "2001:db8::1",
        "3fff::1", "5f00::1", "not an address", "", "127.1", "0x7f.0.0.1", "2606:4700:4700::1111%1",
    ],
)  # fmt: skip
def test_addresses_that_lead_inside_or_nowhere_are_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_becomes_public_by_being_written_as_ipv6(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for form in (
        ipaddress.IPv6Address(number),
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ):
        assert not is_public(str(form))


@given(st.ip_addresses(v=4), st.sampled_from(LENGTHS))
def test_an_address_behind_a_prefix_of_nat64_is_as_public_as_the_ipv4_address_in_it(
    address: ipaddress.IPv4Address, length: int
) -> None:
    known = ipaddress.IPv6Network("64:ff9b::/96")
    assert is_public(str(known.network_address + int(address))) == is_public(str(address))
    prefix = ipaddress.IPv6Network(f"{OWN[length]}/{length}")
    assert is_public(translated(prefix, address), [prefix]) == is_public(str(address))
    assert list(discovered([translated(prefix, "192.0.0.170"), translated(prefix, "192.0.0.171")])) == [prefix] * 2


# RFC 6052, 2.4: 192.0.2.33 behind prefixes of each length
IN_THE_RFC = {
    32: "2001:db8:c000:221::",
    40: "2001:db8:1c0:2:21::",
    48: "2001:db8:122:c000:2:2100::",
    56: "2001:db8:122:3c0:0:221::",
    64: "2001:db8:122:344:c0:2:2100::",
    96: "2001:db8:122:344::192.0.2.33",
}
OWN = {32: "2a01:db8::", 40: "2a01:db8:100::", 48: "2a01:db8:122::", 56: "2a01:db8:122:300::",
       64: "2a01:db8:122:344::", 96: "2a01:db8:122:344::"}  # fmt: skip


def translated(prefix: ipaddress.IPv6Network, address: object) -> str:
    """An IPv4 address behind a prefix; bits 64 to 71 are zero."""
    four, length = ipaddress.IPv4Address(str(address)).packed, prefix.prefixlen // 8
    packed = bytearray(prefix.network_address.packed)
    for place, byte in enumerate(four):
        packed[length + place + (1 if length <= 8 and length + place >= 8 else 0)] = byte
    return str(ipaddress.IPv6Address(bytes(packed)))


@pytest.mark.parametrize("length", LENGTHS)
def test_the_examples_of_rfc_6052_are_read(length: int) -> None:
    address = ipaddress.IPv6Address(IN_THE_RFC[length])
    prefix = ipaddress.IPv6Network((address, length), strict=False)
    assert str(embedded(address, prefix)) == "192.0.2.33"
    assert translated(prefix, "192.0.2.33") == str(address)


@pytest.mark.parametrize(
    "answers", [[], ["192.0.0.170", "192.0.0.171"], ["64:ff9b::1"], ["2001:db8::c000:aa:1"], ["x"]]
)
def test_a_network_without_nat64_shows_no_prefix(answers: list[str]) -> None:
    assert list(discovered(answers)) == []
