"""Fetching in networks as people have them: NAT64, hosts with IPv6 alone or broken, several addresses."""

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from smi_pipeline.adapters.fetching import nat64
from smi_pipeline.adapters.fetching.connecting import STAGGER_SECONDS, connect, in_turn
from smi_pipeline.adapters.fetching.fetcher import HttpFetcher
from smi_pipeline.adapters.fetching.time_allowed import TimeAllowed
from smi_pipeline.core.errors import PermanentError, TransientError
from smi_pipeline_tests.unit.fetch.servers import PUBLIC, Loopback, Origin, serving

IMAGE = os.urandom(50_000)
HOST = "images.example.com"
OWN = "2a01:db8:64:64::"  # a prefix of NAT64 that the network has from its own block
ULA = "fd00:64::"
Answers = dict[str, list[str]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def https(authority: trustme.CA) -> Iterator[Origin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    with serving(Origin(), context) as origin:
        origin.on("/a.png", IMAGE)
        yield origin


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Network:
    """A fetcher in a network whose resolver answers so."""

    def __init__(self, https: Origin, trusting: ssl.SSLContext, temp_dir: Path, answers: Answers, **more: Any) -> None:
        self.asked: list[str] = []

        def resolver(host: str, port: int) -> list[str]:
            self.asked.append(host)
            if host not in answers:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return answers[host]

        self.http = Loopback(https.port, tls_context=trusting, resolver=resolver, **more)
        self._fetcher = HttpFetcher([HOST], [HOST], temp_dir, http=self.http)

    def fetch(self) -> int:
        with self._fetcher.fetch(f"https://{HOST}/a.png", kind="source", max_bytes=10**6) as fetched:
            return fetched.bytes

    @property
    def dialled(self) -> list[str]:
        return [address for address, _ in self.http.dialled]


@pytest.fixture
def network(https: Origin, trusting: ssl.SSLContext, tmp_path: Path) -> Callable[..., Network]:
    return lambda answers, **more: Network(https, trusting, tmp_path, answers, **more)


DISCOVERED = {"ipv4only.arpa": ["192.0.0.170", "192.0.0.171", f"{OWN}192.0.0.170", f"{OWN}192.0.0.171"]}


@pytest.mark.parametrize(
    "answer",
    [
        ["64:ff9b::93.184.215.14", PUBLIC],
        ["64:ff9b::93.184.215.14"],
        [f"{OWN}93.184.215.14", PUBLIC],
        ["2606:4700:4700::1111"],
        ["64:ff9b::93.184.215.14", "2606:4700:4700::1111", PUBLIC],
    ],
)
def test_a_host_is_reached_through_nat64_beside_ipv4_and_by_ipv6_alone(
    network: Callable[..., Network], answer: list[str]
) -> None:
    found = network({HOST: answer, **DISCOVERED})
    assert found.fetch() == len(IMAGE)
    assert found.dialled == answer[:1]


@pytest.mark.parametrize("inside", ["10.0.0.7", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"])
@pytest.mark.parametrize("prefix", ["64:ff9b::", OWN])
def test_what_nat64_would_translate_to_an_address_inside_is_refused(
    network: Callable[..., Network], https: Origin, prefix: str, inside: str
) -> None:
    found = network({HOST: [f"{prefix}{inside}", PUBLIC], **DISCOVERED})
    with pytest.raises(PermanentError, match="not on the public internet"):
        found.fetch()
    assert (found.dialled, https.connections) == ([], 0)


def test_a_prefix_that_was_configured_counts_like_one_that_was_found(network: Callable[..., Network]) -> None:
    for prefix in (f"{OWN}/96", f"{ULA}/96", "64:ff9b:1:fffe::/96"):
        start = prefix.partition("/")[0]
        with pytest.raises(PermanentError):
            network({HOST: [f"{start}10.0.0.7"]}, nat64_prefixes=[prefix]).fetch()
        assert network({HOST: [f"{start}93.184.215.14"]}, nat64_prefixes=[prefix]).fetch()


def test_the_resolver_may_show_a_prefix_for_local_use_and_none_of_private_addresses(
    network: Callable[..., Network],
) -> None:
    """Whoever can forge answers must not open what is inside."""
    local = "64:ff9b:1:fffe::"
    assert network({HOST: [f"{local}93.184.215.14"], "ipv4only.arpa": [f"{local}192.0.0.170"]}).fetch()
    with pytest.raises(PermanentError):
        network({HOST: [f"{ULA}93.184.215.14"], "ipv4only.arpa": [f"{ULA}192.0.0.170"]}).fetch()
    with pytest.raises(PermanentError):
        network({HOST: [f"{local}93.184.215.14"]}).fetch()


def test_the_resolver_is_asked_for_prefixes_once_an_hour_and_only_for_hosts_with_ipv6(
    network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {HOST: [PUBLIC]}
    found = network(answers)
    found.fetch()
    assert found.asked == [HOST]
    answers[HOST] = ["2606:4700:4700::1111"]
    found.fetch()
    found.fetch()
    assert found.asked == [HOST, HOST, "ipv4only.arpa", HOST], "nor at each fetch where it has no such name"
    monkeypatch.setattr(nat64, "KNOWN_FOR_SECONDS", 0.0)
    answers["ipv4only.arpa"] = ["192.0.0.170"]
    found = network(answers)
    found.fetch()
    found.fetch()
    assert found.asked == [HOST, "ipv4only.arpa"] * 2


def test_a_resolver_that_fails_is_asked_again_and_what_it_has_shown_is_kept(
    network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment without a resolver must neither refuse images for an hour nor open what is inside."""
    now = [1000.0]
    monkeypatch.setattr(nat64, "time", SimpleNamespace(monotonic=lambda: now[0]))
    local = "64:ff9b:1:fffe::"
    answers = {HOST: [f"{local}93.184.215.14"]}
    found = network(answers)
    for _ in range(2):
        with pytest.raises(PermanentError):
            found.fetch()
    assert found.asked.count("ipv4only.arpa") == 1, "a resolver that does not answer costs seconds"
    answers["ipv4only.arpa"] = [f"{local}192.0.0.170"]
    now[0] += 61
    assert found.fetch()
    del answers["ipv4only.arpa"]
    now[0] += 3601
    assert found.fetch(), "the prefix of the last answer"
    answers["ipv4only.arpa"] = ["192.0.0.170"]
    now[0] += 61
    with pytest.raises(PermanentError):
        found.fetch()


def test_families_are_tried_in_turn(network: Callable[..., Network]) -> None:
    six, four = [f"2606:4700::{n}" for n in range(1, 6)], ["93.184.215.1", "93.184.215.2"]
    assert in_turn([*six, *four])[:4] == [six[0], four[0], six[1], four[1]]
    assert in_turn([*four, *six])[:4] == [four[0], six[0], four[1], six[1]]
    assert in_turn(six) == six and in_turn(four) == four and in_turn([]) == []


def test_ipv4_is_reached_although_all_of_many_ipv6_addresses_are_dead(
    https: Origin, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    class OnlyFour(Loopback):
        def _endpoint(self, address: str, port: int) -> tuple[str, int]:
            good = super()._endpoint(address, port)
            return good if address == PUBLIC else ("::1", 1)

    http = OnlyFour(
        https.port, tls_context=trusting, resolver=lambda *_: [*(f"2606:4700::{n}" for n in range(9)), PUBLIC]
    )
    with HttpFetcher([HOST], [], tmp_path, http=http).fetch(
        f"https://{HOST}/a.png", kind="source", max_bytes=10**6
    ) as got:
        assert got.bytes == len(IMAGE)


# Sockets


@contextmanager
def swallowing() -> Iterator[tuple[str, int]]:
    """An endpoint that answers no attempt to connect: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.1)
        yield address


@pytest.fixture
def listening() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


NOBODY = ("127.0.0.1", 1)


def test_an_address_that_swallows_packets_delays_the_next_one_by_a_moment(listening: tuple[str, int]) -> None:
    with swallowing() as dead:
        began = time.monotonic()
        with connect([dead, listening], 5, lambda: 9.0) as sock:
            assert sock.getpeername() == listening
            assert 0 < (sock.gettimeout() or 0) <= 5
        assert STAGGER_SECONDS <= time.monotonic() - began < 2


def test_an_address_that_refuses_delays_the_next_one_not_at_all(listening: tuple[str, int]) -> None:
    began = time.monotonic()
    with connect([NOBODY, ("::1", 1), NOBODY, listening], 5, lambda: 9.0) as sock:
        assert sock.getpeername() == listening
    assert time.monotonic() - began < STAGGER_SECONDS


def test_the_first_address_is_used_when_it_answers_and_no_other_is_tried(listening: tuple[str, int]) -> None:
    def endpoints() -> Iterator[tuple[str, int]]:
        yield listening
        raise AssertionError("another one was tried")

    with connect(endpoints(), 5, lambda: 9.0) as sock:
        assert sock.getpeername() == listening


def test_when_none_answers_the_reason_is_told_in_time() -> None:
    with pytest.raises(ConnectionRefusedError):
        connect([NOBODY, NOBODY], 5, lambda: 9.0)
    with swallowing() as dead:
        for timeout, seconds in ((0.3, 9.0), (5.0, 0.3)):
            allowed = TimeAllowed(seconds)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                connect([dead, dead], timeout, allowed.left)
            assert time.monotonic() - began < 2
    with pytest.raises(OSError, match="no address"):
        connect([], 1, lambda: 9.0)


def test_a_name_that_only_ipv6_has_is_worth_another_try_where_there_is_no_ipv6(
    https: Origin, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    class NoRoute(Loopback):
        def _endpoint(self, address: str, port: int) -> tuple[str, int]:
            return "::1", 1

    http = NoRoute(https.port, tls_context=trusting, resolver=lambda *_: ["2606:4700::1"])
    with (
        pytest.raises(TransientError, match="could not be read"),
        HttpFetcher([HOST], [], tmp_path, http=http).fetch(f"https://{HOST}/a.png", kind="source", max_bytes=10),
    ):
        pass
