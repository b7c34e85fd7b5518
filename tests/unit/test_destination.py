"""Where deliveries may go: URLs and addresses, judged without asking anybody."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trace_ray import destination
from trace_ray.destination import Destination, checked, refusal
from trace_ray.errors import DestinationRefused

PUBLIC = ("93.184.216.34", "1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e")
KEY = "9f8e7d6c5b4a3928"

# --- URLs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://hooks.example/a?b=c", Destination("https", "hooks.example", 443, "/a?b=c")),
        ("https://hooks.example", Destination("https", "hooks.example", 443, "/")),
        ("HTTPS://Hooks.Example.:8443/", Destination("https", "hooks.example", 8443, "/")),
        ("https://[2606:4700:4700::1111]/x", Destination("https", "2606:4700:4700::1111", 443, "/x")),
        ("https://1.1.1.1:65535/", Destination("https", "1.1.1.1", 65535, "/")),
        ("https://a_b.xn--bcher-kva.example/", Destination("https", "a_b.xn--bcher-kva.example", 443, "/")),
        ("https://xn--0.123abc/", Destination("https", "xn--0.123abc", 443, "/")),
    ],
)
def test_https_urls_of_public_hosts_are_taken(url: str, place: Destination) -> None:
    assert destination.web(url, allow_loopback=False) == place
    assert place.secure


def test_a_request_names_the_host_as_others_do() -> None:
    for url, authority in (
        ("https://hooks.example/", "hooks.example"),
        ("https://hooks.example:443/", "hooks.example"),
        ("https://hooks.example:8443/", "hooks.example:8443"),
        ("https://[2606:4700:4700::1111]/", "[2606:4700:4700::1111]"),
        ("https://[2606:4700:4700::1111]:8443/", "[2606:4700:4700::1111]:8443"),
    ):
        assert destination.web(url, allow_loopback=False).authority == authority


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("http://hooks.example/", "is not https, and whoever sits on the line could read it"),
        ("ftp://hooks.example/", "is not an https URL: write https://HOST/PATH"),
        ("hooks.example", "names no host"),
        ("https://", "names no host"),
        ("https:///path", "names no host"),
        (f"https://me:{KEY}@hooks.example/", "holds a user or a password: put the secret into ..._SECRET"),
        ("https://me@hooks.example/", "holds a user or a password"),
        (f"https://hooks.example/#{KEY}", "has a '#': remove it"),
        ("https://hooks.example/#", "has a '#': remove it"),
        ("https://hooks.example/a b", "is not a URL of at most 2048 plain characters"),
        ("https://hooks.example\\@evil.example/", "is not a URL of at most 2048 plain characters"),
        ("https://hooks.example/\x7f", "is not a URL of at most 2048 plain characters"),
        ("https://bücher.example/", "is not a URL of at most 2048 plain characters"),
        (f"https://hooks.example/{'a' * 2048}", "is not a URL of at most 2048 plain characters"),
        ("https://hooks.example:0/", "is not a URL"),
        ("https://hooks.example:65536/", "is not a URL"),
        ("https://[::1/", "is not a URL"),
        ("https://hooks.example:22/", "names port 22: take 443, or one from 1024 to 65535"),
        ("https://hooks.example:80/", "names port 80: take 443"),
        ("https://127.0.0.1/", "names an address that is loopback"),
        ("https://[::1]/", "names an address that is loopback"),
        ("https://[::ffff:10.0.0.1]/", "names an address that is private"),
        ("https://[fe80::1%25eth0]/", "names an address that is link-local"),
        ("https://169.254.169.254/latest/meta-data", "names an address that is link-local"),
        ("https://localhost/", "names this machine"),
        ("https://LOCALHOST./", "names this machine"),
        ("https://2130706433/", "names no host"),
        ("https://0x7f.1/", "names no host"),
        ("https://127.1/", "names no host"),
        ("https://0177.0.0.1/", "names no host"),
        ("https://1.1.1.0x1/", "names no host"),
        ("https://a..example/", "names no host"),
        ("https://-a.example/", "names no host"),
        ("https://a-.example/", "names no host"),
        (f"https://{'a' * 64}.example/", "names no host"),
        (f"https://{'a.' * 130}example/", "names no host"),
        ("https://a%2eexample/", "names no host"),
    ],
)
def test_other_urls_are_refused_without_being_quoted(url: str, wrong: str) -> None:
    with pytest.raises(DestinationRefused) as caught:
        destination.web(url, allow_loopback=False)
    assert str(caught.value).startswith(wrong)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9"])
def test_this_machine_is_a_receiver_with_the_switch_alone(host: str) -> None:
    assert destination.web(f"http://{host}:8080/x", allow_loopback=True).secure is False
    assert destination.web(f"http://{host}/x", allow_loopback=True).port == 80
    for scheme in ("http", "https"):
        with pytest.raises(DestinationRefused):
            destination.web(f"{scheme}://{host}:8080/x", allow_loopback=False)


@pytest.mark.parametrize("host", ["hooks.example", "10.0.0.1", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"])
def test_the_switch_opens_nothing_else(host: str) -> None:
    with pytest.raises(DestinationRefused):
        destination.web(f"http://{host}:8080/", allow_loopback=True)


@given(st.text(max_size=80), st.booleans())
@example("https://[", False)
@example("https://a:b:c/", True)
def test_no_text_is_worse_than_refused(text: str, allow_loopback: bool) -> None:
    for judge in (destination.web, destination.mail):
        for url in (text, f"https://{text}", f"smtp://{text}"):
            try:
                place = judge(url, allow_loopback=allow_loopback)
            except DestinationRefused:
                continue
            assert place.host
            assert place.host.isascii()
            assert not set(place.host) & set("@/\\?# %")
            assert 1 <= place.port <= 65535
            assert "\n" not in place.target
            assert "\r" not in place.target


def test_mail_servers_speak_tls_one_way_or_the_other() -> None:
    assert destination.mail("smtp://mail.example", allow_loopback=False) == Destination("smtp", "mail.example", 587, "")
    assert destination.mail("smtps://mail.example/", allow_loopback=False).secure
    assert destination.mail("smtp://mail.example:2525", allow_loopback=False).port == 2525
    assert destination.mail("smtp://127.0.0.1:1025", allow_loopback=True).port == 1025


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("https://mail.example", "is not a mail server"),
        ("smtp://mail.example/path", "is not a mail server"),
        ("smtp://mail.example?x", "is not a mail server"),
        ("smtp://mail.example:80", "names port 80: mail is taken on 25, 465, 587, 2525"),
        ("smtp://mail.example:1025", "names port 1025"),
        ("smtp://10.1.1.1", "names an address that is private"),
        (f"smtp://me:{KEY}@mail.example", "holds a user or a password"),
    ],
)
def test_other_mail_urls_are_refused(url: str, wrong: str) -> None:
    with pytest.raises(DestinationRefused) as caught:
        destination.mail(url, allow_loopback=False)
    assert str(caught.value).startswith(wrong)


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_reached(text: str) -> None:
    assert refusal(ip_address(text), allow_loopback=False) is None
    assert checked([text], allow_loopback=False) == [text]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0.0.0.0", "unspecified"), ("0.1.2.3", "unspecified"), ("10.0.0.1", "private"), ("172.16.0.1", "private"),
        ("172.31.255.255", "private"), ("192.168.1.1", "private"), ("100.64.0.1", "shared by a provider's customers"),
        ("100.100.100.200", "shared by a provider's customers"), ("127.0.0.1", "loopback"), ("127.255.0.1", "loopback"),
        ("169.254.169.254", "link-local"), ("169.254.170.2", "link-local"), ("192.0.0.192", "reserved"),
        ("198.18.0.1", "reserved"), ("192.88.99.1", "reserved"), ("192.0.2.1", "for documentation"),
        ("198.51.100.7", "for documentation"), ("203.0.113.7", "for documentation"), ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"), ("240.0.0.1", "reserved"), ("255.255.255.255", "reserved"),
        ("168.63.129.16", "a cloud's own service"), ("::", "unspecified"), ("::1", "loopback"), ("fc00::1", "private"),
        ("fd00:ec2::254", "private"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local"),
        ("2606:4700::1%eth0", "link-local"), ("fec0::1", "link-local"), ("ff02::1", "multicast"),
        ("2001:db8::1", "for documentation"), ("3fff::1", "for documentation"), ("2001::1", "a tunnel"),
        ("2002:7f00:1::", "a tunnel"), ("2002:808:808::1", "a tunnel"), ("2001:10::1", "reserved"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"), ("64:ff9b:1::1", "reserved"), ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "link-local"), ("64:ff9b::10.0.0.1", "private"), ("64:ff9b::7f00:1", "loopback"),
        ("::7f00:1", "reserved"), ("::ffff:0:7f00:1", "reserved"),
    ],
)  # fmt: skip
def test_special_addresses_are_refused_by_what_they_are(text: str, kind: str) -> None:
    assert refusal(ip_address(text), allow_loopback=False) == kind
    with pytest.raises(DestinationRefused, match=f"an address of the host is {kind}: deliveries go to public hosts"):
        checked([text], allow_loopback=False)


def test_the_switch_lets_loopback_through_and_no_disguise_of_it() -> None:
    assert refusal(ip_address("127.0.0.1"), allow_loopback=True) is None
    assert refusal(ip_address("::1"), allow_loopback=True) is None
    for text in ("::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.0.0.1", "169.254.169.254", "::", "0.0.0.0"):
        assert refusal(ip_address(text), allow_loopback=True) is not None


def test_public_addresses_in_their_ipv6_forms_are_reached() -> None:
    """A network without IPv4 has no other way to them."""
    assert refusal(ip_address("64:ff9b::8.8.8.8"), allow_loopback=False) is None
    assert refusal(ip_address("::ffff:8.8.8.8"), allow_loopback=False) is None


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(ADDRESSES)
def test_what_is_let_through_is_public_for_the_standard_library_too(address: IPv4Address | IPv6Address) -> None:
    if refusal(address, allow_loopback=False) is not None:
        return
    if isinstance(address, IPv6Address) and any(address in carrier for carrier in destination.CARRIERS):
        address = IPv4Address(address.packed[-4:])
    assert address.is_global
    assert not any((address.is_multicast, address.is_private, address.is_loopback, address.is_link_local))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_form_that_is_taken(address: IPv4Address) -> None:
    plain = refusal(address, allow_loopback=False)
    for carrier in destination.CARRIERS:
        packed = carrier.network_address.packed[:12] + address.packed
        assert refusal(IPv6Address(packed), allow_loopback=False) == plain
    assert refusal(IPv6Address(b"\x20\x02" + address.packed + bytes(10)), allow_loopback=False) == "a tunnel"


@given(st.lists(ADDRESSES, min_size=1, max_size=6))
def test_one_bad_address_refuses_the_host(addresses: list[IPv4Address | IPv6Address]) -> None:
    texts = [str(one) for one in addresses]
    bad = any(refusal(one, allow_loopback=False) for one in addresses)
    try:
        assert checked(texts, allow_loopback=False) == list(dict.fromkeys(texts))
        assert not bad
    except DestinationRefused:
        assert bad


def test_a_host_without_addresses_or_with_nonsense_is_refused() -> None:
    for found in ([], ["8.8.8.8", "nonsense"], [f"8.8.8.{number}" for number in range(17)]):
        with pytest.raises(DestinationRefused):
            checked(found, allow_loopback=False)
