"""A sample of `make attack`, and that it finds what it is meant to find."""

from urllib.parse import unquote

import pytest

from smi_pipeline_tests.attack.requests import attempt
from smi_pipeline_tests.attack.run import attack
from smi_pipeline_tests.attack.sites import ANALYSTS, CUSTOMERS, SITES, TEAM, Target
from smi_pipeline_tests.attack.weakened import RULES, blocking_by_name
from smi_pipeline_tests.gateway.nginx import needs_nginx

SEED = 1


@needs_nginx
def test_of_thousands_of_hostile_requests_none_reaches_what_is_closed() -> None:
    outcome = attack(2000, SEED)
    assert outcome.violations == []
    assert not outcome.kinds
    assert all(sum(answers.values()) == 2000 for answers in outcome.answers.values())
    for site in (TEAM, ANALYSTS):  # those that a site should take are among them
        assert outcome.reached[site, "POST", "/graphql"] > 50
        assert outcome.reached[site, "WEBSOCKET", "/graphql"] > 0
        assert outcome.reached[site, "GET", "/{path:path}"] > 10
    assert outcome.reached[TEAM, "POST", "/report_asset_check/{asset_key:path}"] > 10
    assert outcome.reached[CUSTOMERS, "GET", "/ops"] > 10


@needs_nginx
def test_the_attack_finds_the_line_break_that_once_led_past_the_names_of_what_is_closed() -> None:
    found = set(attack(1500, SEED, change=blocking_by_name).kinds)
    for site in (TEAM, ANALYSTS):
        assert f"{site}: a write by another method than POST" in found
    assert f"{CUSTOMERS}: metrics for customers" in found


@needs_nginx
@pytest.mark.parametrize("found", RULES)
def test_a_rule_that_is_taken_away_is_missed(found: str) -> None:
    outcome = attack(700, SEED, change=RULES[found])
    assert any(kind.endswith(found) for kind in outcome.kinds), outcome.kinds


def test_each_request_can_be_made_again() -> None:
    target = Target(site=TEAM, origin="http://127.0.0.1:1", login="a:b", other_login="c:d", cookie="e")
    first = [attempt(target, SEED, number) for number in range(300)]
    assert first == [attempt(target, SEED, number) for number in range(300)]
    assert first != [attempt(target, SEED + 1, number) for number in range(300)]
    assert len({one.raw for one in first}) > 290


@pytest.mark.parametrize("site", SITES)
def test_there_are_requests_of_every_kind(site: str) -> None:
    target = Target(site=site, origin="http://127.0.0.1:1", login="a:b", other_login="c:d", cookie="e")
    lines = [attempt(target, SEED, number).raw.split(b"\n")[0].decode("latin-1") for number in range(20_000)]
    closed = "/metrics" if site == CUSTOMERS else "/graphql"
    assert any(unquote(line.split(" ")[1]) == f"{closed}\n" for line in lines if line.count(" ") == 2)
    for kind in (
        "%00",
        "%250a",
        "%c0%",
        "%2f",
        "..",
        "\\",
        ";",
        "#",
        "http://",
        " * ",
        "CONNECT",
        "HTTP/1.0",
        "%ef%bd",
        "\x7f",
    ):
        assert any(kind in line for line in lines), kind
    assert any(len(line) > 16_000 for line in lines)
