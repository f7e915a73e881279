"""A sample of `make attack`, and that it finds what it is meant to find."""

import re
from collections.abc import Callable
from urllib.parse import unquote

import pytest

from smi_pipeline_tests.attack.requests import attempt
from smi_pipeline_tests.attack.run import attack
from smi_pipeline_tests.attack.sites import ANALYSTS, CUSTOMERS, SITES, TEAM, Target
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


def without(*lines: str, instead: str = "") -> Callable[[str], str]:
    """Return what takes these lines out of a configuration, wherever they stand."""

    def change(text: str) -> str:
        for line in lines:
            assert line in text
            text = text.replace(line, instead)
        return text

    return change


def blocking_by_name(text: str) -> str:
    """Return the configuration as it once was: each path open but for the names of what is closed."""
    text = without("if ($smi_ambiguous)", instead='if ($smi_kind = "")')(text)
    closed = r"location / \{\n +return 404;\n +\}(?=.*?(proxy_pass [^;]+;))"
    text, opened = re.subn(closed, r"location / { \1 }", text, flags=re.DOTALL)
    assert opened == 2
    own = "location ~ ^/(?:smi/v1/|smi-webhook/|static/|(?:ops|health)\\z|ops/) {"
    text = without("location / {\n            set", instead="location = /nowhere {\n            set")(text)
    return without(own, instead="location = /metrics { return 404; }\n        location / {")(text)


@needs_nginx
def test_the_attack_finds_the_line_break_that_once_led_past_the_names_of_what_is_closed() -> None:
    found = set(attack(1500, SEED, change=blocking_by_name).kinds)
    for site in (TEAM, ANALYSTS):
        assert f"{site}: a write by another method than POST" in found
    assert f"{CUSTOMERS}: metrics for customers" in found


LAST_OF_THE_MAP = "default 1;\n    }\n\n    server {  # Dagster"
RULES = {
    "a path that can be read in two ways": without("if ($smi_ambiguous)", instead='if ($smi_kind = "")'),
    "a foreign Origin": without("default foreign;", instead="default own;"),
    "a write that does not come from the site": without('none same-origin " "";', instead='none " "";'),
    "embedded by another site": without(LAST_OF_THE_MAP, instead=LAST_OF_THE_MAP.replace("1", '""')),
    "a header twice, or a login": without("proxy_pass_request_headers off;"),
    "a write by another method than POST": without("(?:write|socket)\\z", instead="(?:write|socket|read)\\z"),
    "no login": without('auth_basic "Dagster', instead='# "'),
    "another host name than the site's": without("Host 127.0.0.1", instead="Host $http_host; #"),
    "an invented client address": without("proxy_set_header X-Forwarded-For $remote_addr;"),
    "metrics for customers": without("smi_nowhere /not-found;", instead="smi_nowhere $request_uri;"),
}


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
