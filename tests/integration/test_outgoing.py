"""Single sendings to real receivers over real TLS: where they go, where they never go, and how each ends."""

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from actors import senders
from actors.outgoing import Network, Unresolved, resolve, tls_context
from tests import certificates
from tests.alert_events import notice
from tests.certificates import Trust
from tests.conftest import free_port, wait_until
from tests.receivers import FLOOD, MailServer, Receiver
from trace_ray import webhook
from trace_ray.channels import Channel, ChannelKind, Sending, Sent, Unsent

HOST = "receiver.test"
SECRET = "a secret of 22 letters"
KEY = "9f8e7d6c5b4a3928"


@dataclass
class Dns:
    """A resolver that answers as it is told, the last answer for ever, and counts."""

    answers: Sequence[Sequence[str]]
    asked: int = 0

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        if host != HOST:
            return resolve(host, port)
        return self.answers[min(self.asked, len(self.answers)) - 1]


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return certificates.make(tmp_path_factory.mktemp("trust"), HOST)


@pytest.fixture
def receiver(trust: Trust) -> Iterator[Receiver]:
    with Receiver(trust.server) as server:
        yield server


@pytest.fixture
def network(trust: Trust) -> Network:
    return Network(allow_loopback=True, resolver=Dns([["127.0.0.1"]]), tls=trust.client, limit_s=20.0)


Post = Callable[..., Sending]


@pytest.fixture
def post(receiver: Receiver, network: Network) -> Post:
    def send(
        path: str, *, host: str = HOST, through: Network = network, kind: str = "webhook", port: int = 0
    ) -> Sending:
        url = f"https://{host}:{port or receiver.port}{path}"
        secrets = (SECRET,) if kind == "webhook" else ()
        channel = Channel("ops", ChannelKind(kind), url=url, secrets=secrets)
        return senders.make(channel, through)(notice())

    return send


# --- it arrives ---------------------------------------------------------------------------------------------------


def test_a_webhook_arrives_signed_at_the_host_that_was_meant(post: Post, receiver: Receiver) -> None:
    assert post("/ok?a=b") == Sent()
    (request,) = receiver.heard.requests
    assert request.path == "/ok?a=b"
    assert request.body == webhook.body(notice())
    assert request.key == str(notice().delivery_id)
    assert webhook.verify(request.headers["trace-signature"], request.body, (SECRET,), now=datetime.now(UTC))
    assert request.headers["host"] == f"{HOST}:{receiver.port}"
    assert receiver.heard.server_names == [HOST]


def test_an_address_in_place_of_a_name_is_a_host_too(post: Post) -> None:
    assert post("/ok", host="127.0.0.1") == Sent()


def test_slack_gets_its_own_body_and_no_signature(post: Post, receiver: Receiver) -> None:
    assert post("/ok", kind="slack") == Sent()
    (request,) = receiver.heard.requests
    assert set(json.loads(request.body)) == {"text"}
    assert "trace-signature" not in request.headers


def test_another_address_of_the_host_is_tried_when_one_does_not_answer(
    post: Post, network: Network, receiver: Receiver
) -> None:
    assert post("/ok", through=replace(network, resolver=Dns([["127.0.0.2", "127.0.0.1"]]))) == Sent()
    assert receiver.heard.connections == 1


# --- it goes nowhere else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"], []]
)
def test_a_host_with_a_private_address_is_not_connected_to(
    post: Post, network: Network, receiver: Receiver, addresses: list[str]
) -> None:
    sending = post("/ok", through=replace(network, resolver=Dns([addresses])))
    assert isinstance(sending, Unsent)
    assert sending.error.startswith(("an address of the host is", "the host has 0 addresses"))
    assert (sending.in_doubt, receiver.heard.connections) == (False, 0)


def test_without_the_switch_this_machine_is_not_connected_to(post: Post, network: Network, receiver: Receiver) -> None:
    sending = post("/ok", through=replace(network, allow_loopback=False))
    assert sending == Unsent("an address of the host is loopback: deliveries go to public hosts only")
    assert receiver.heard.connections == 0


def test_a_second_answer_of_the_dns_server_changes_nothing(
    post: Post, network: Network, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged is what is connected to: the name is asked for once in a sending, by nobody else either."""
    rebinding = Dns([["127.0.0.1"], ["10.0.0.1"]])
    asked: list[object] = []
    system = socket.getaddrinfo

    def watched(host: str, *rest: object, **more: object) -> object:
        asked.append(host)
        return system(host, *rest, **more)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    assert post("/ok", through=replace(network, resolver=rebinding)) == Sent()
    assert rebinding.asked == 1
    assert set(asked) <= {"127.0.0.1"}
    assert isinstance(post("/ok", through=replace(network, resolver=rebinding)), Unsent)
    assert (rebinding.asked, receiver.heard.connections) == (2, 1)


def test_a_redirect_is_not_followed(post: Post, receiver: Receiver) -> None:
    assert post("/redirect") == Unsent(
        "the receiver answered 307, a redirect, which is not followed: set its final URL"
    )
    assert [one.path for one in receiver.heard.requests] == ["/redirect"]


def test_proxies_of_the_environment_are_not_asked(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        assert post("/ok") == Sent()
        assert (proxy.heard.connections, receiver.heard.connections) == (0, 1)


def test_only_the_right_host_is_believed(
    post: Post, network: Network, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another authority, nor the environment's, nor another name of the same machine."""
    wrong = Unsent("the receiver's certificate does not hold for its host")
    assert post("/ok", host="localhost") == wrong
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    assert post("/ok", through=replace(network, tls=tls_context())) == wrong
    stranger = certificates.make(tmp_path, HOST)
    assert post("/ok", through=replace(network, tls=stranger.client)) == wrong
    assert receiver.heard.requests == []


# --- how it ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/busy", Unsent("the receiver answered 429", retry_after_s=77.0)),
        ("/gone", Unsent("the receiver answered 410, which trying again does not change", retryable=False)),
        ("/broken", Unsent("the receiver answered 500", in_doubt=True)),
        ("/drop", Unsent("the receiver gave no HTTP answer", in_doubt=True)),
        ("/garble", Unsent("the receiver gave no HTTP answer", in_doubt=True)),
        ("/flood-head", Unsent("the receiver gave no HTTP answer", in_doubt=True)),
    ],
)
def test_an_answer_is_told_in_our_words_alone(post: Post, receiver: Receiver, path: str, expected: Unsent) -> None:
    assert post(path) == expected
    assert len(receiver.heard.requests) == 1


@pytest.mark.parametrize("path", ["/hang", "/drip-head"])
def test_a_receiver_that_is_slow_or_drips_has_an_end(post: Post, network: Network, path: str) -> None:
    sending = post(path, through=replace(network, limit_s=1.0))
    assert sending == Unsent("the receiver did not answer in time", in_doubt=True)


def test_a_body_that_drips_does_not_take_the_answer_back(post: Post, network: Network) -> None:
    assert post("/drip-body", through=replace(network, limit_s=1.0)) == Sent()


def test_a_huge_answer_is_not_read(post: Post, receiver: Receiver) -> None:
    assert post("/flood") == Sent()
    wait_until(lambda: bool(receiver.heard.flooded), what="the end of the flood")
    assert receiver.heard.flooded[0] < FLOOD / 4


def test_nobody_there_is_no_doubt(post: Post, network: Network) -> None:
    assert post("/ok", port=free_port()) == Unsent("the receiver cannot be reached")

    def lost(host: str, port: int) -> Sequence[str]:
        raise Unresolved

    assert post("/ok", through=replace(network, resolver=lost)) == Unsent("the host's name cannot be resolved")
    with Receiver() as plain:  # speaks no TLS
        sending = post("/ok", port=plain.port)
        assert isinstance(sending, Unsent)
        assert not sending.in_doubt
        assert plain.heard.requests == []


def test_a_listener_that_never_shakes_hands_has_an_end(post: Post, network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sending = post("/ok", port=silent.getsockname()[1], through=replace(network, limit_s=1.0))
    assert sending == Unsent("the receiver cannot be reached in time")


def test_a_name_that_does_not_exist_is_told() -> None:
    for host in ("nowhere.invalid", "a" * 70):
        with pytest.raises(Unresolved):
            resolve(host, 443)
    assert "127.0.0.1" in resolve("localhost", 443)


def test_the_log_is_a_channel(caplog: pytest.LogCaptureFixture, network: Network) -> None:
    with caplog.at_level("INFO"):
        assert senders.make(Channel("quiet", ChannelKind.LOG), network)(notice()) == Sent()
    (record,) = caplog.records
    assert record.message == "alert"
    assert vars(record)["delivery_id"] == notice().delivery_id
    assert vars(record)["block_number"] == 101


# --- mail ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["smtp", "smtps"])
def server(request: pytest.FixtureRequest, trust: Trust) -> Iterator[MailServer]:
    with MailServer(trust.server, implicit=request.param == "smtps") as found:
        yield found


def mail(server: MailServer, network: Network, *, host: str = HOST, user: str | None = "trace") -> Sending:
    channel = Channel(
        name="mail",
        kind=ChannelKind.EMAIL,
        url=f"{'smtps' if server.implicit else 'smtp'}://{host}:{server.port}",
        secrets=(KEY,) if user else (),
        user=user,
        sender="alerts@trace.test",
        recipients=("a@x.test", "b@x.test"),
    )
    return senders.make(channel, network)(notice())


def test_a_message_is_handed_over_in_tls_after_a_login(server: MailServer, network: Network) -> None:
    assert mail(server, network) == Sent()
    box = server.box
    assert (box.logins, box.in_tls) == ([("trace", KEY)], [True])
    read = message_from_bytes(box.messages[0], policy=policy.default)
    assert read["Message-ID"] == f"<{notice().delivery_id}@trace.test>"
    assert read["Subject"] == webhook.headline(notice())


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ({"answers": {"b@x.test": "550 no such user"}}, Sent("1 of the recipients were refused")),
        (
            {"answers": {"a@x.test": "550 private words", "b@x.test": "550 no"}},
            Unsent("the mail server answered 550", retryable=False),
        ),
        ({"answers": {"a@x.test": "450 later", "b@x.test": "550 no"}}, Unsent("the mail server answered 450")),
        ({"answers": {"AUTH": "535 private words"}}, Unsent("the mail server refused user and password with 535")),
        ({"answers": {"MAIL": "451 later"}}, Unsent("the mail server answered 451")),
        ({"answers": {"DATA": "554 spam"}}, Unsent("the mail server answered 554", retryable=False)),
        ({"greeting": "554 not you"}, Unsent("the mail server greeted us with 554")),
        ({"drops_data": True}, Unsent("the receiver broke the connection off", in_doubt=True)),
    ],
)
def test_a_mail_server_is_told_of_in_our_words_alone(
    server: MailServer, network: Network, behaviour: dict[str, object], expected: Sending
) -> None:
    for name, value in behaviour.items():
        setattr(server.box, name, value)
    assert mail(server, network) == expected


def test_a_mail_server_that_drips_has_an_end(server: MailServer, network: Network) -> None:
    server.box.drips = True
    assert mail(server, replace(network, limit_s=1.0)) == Unsent("the receiver cannot be reached in time")


def test_a_mail_server_is_judged_as_any_receiver(server: MailServer, network: Network, tmp_path: Path) -> None:
    assert mail(server, replace(network, resolver=Dns([["10.0.0.1"]]))) == Unsent(
        "an address of the host is private: deliveries go to public hosts only"
    )
    stranger = certificates.make(tmp_path, HOST)
    assert mail(server, replace(network, tls=stranger.client)) == Unsent(
        "the receiver's certificate does not hold for its host"
    )
    assert server.box.messages == server.box.logins == []


def test_nothing_is_handed_over_in_the_clear_but_on_this_machine(trust: Trust, network: Network) -> None:
    with MailServer(trust.server) as server:
        server.box.offers_starttls = False
        sending = mail(server, network)
        assert isinstance(sending, Unsent)
        assert sending.error.startswith("the mail server offers no STARTTLS")
        assert server.box.messages == server.box.logins == []
        assert mail(server, network, host="127.0.0.1", user=None) == Sent()
        assert server.box.in_tls == [False]
