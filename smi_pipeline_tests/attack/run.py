"""One attack: nginx with the configuration of `smi front`, recorders behind it, senders before it."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from smi_pipeline_tests.attack.recorder import recorders
from smi_pipeline_tests.attack.sites import ANALYSTS, CUSTOMERS, SITES, TEAM, Target
from smi_pipeline_tests.attack.verdict import Judge
from smi_pipeline_tests.attack.wire import send_all
from smi_pipeline_tests.gateway import nginx
from smi_pipeline_tests.gateway.nginx import configured, front, without_login_limit

CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attack came to. `answers` are nginx's, by site and status; `reached` what arrived behind it, by site,
    method and route; `violations` some of what must not have, `kinds` all of it."""

    seconds: float
    unsent: int
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    reached: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def attack(
    requests: int,
    seed: int,
    *,
    processes: int = 2,
    seconds: float = 3600,
    change: Callable[[str], str] = lambda text: text,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Send so many requests to each site, for so long at most. `change` is applied to the configuration."""
    targets: dict[str, Target] = {}
    judge = Judge(targets, seed)
    answers: dict[str, Counter[str]] = {site: Counter() for site in SITES}
    started = time.monotonic()
    unsent = 0
    with recorders(judge.record) as ports:
        settings = configured(
            smi_gateway_port=ports[CUSTOMERS], smi_dagster_port=ports[TEAM], smi_analysts_port=ports[ANALYSTS]
        )
        team, analysts = ":".join(nginx.TEAM), ":".join(nginx.ANALYSTS)
        targets[CUSTOMERS] = Target(site=CUSTOMERS, origin=settings.public_url)
        targets[TEAM] = Target(site=TEAM, origin=settings.smi_team_url or "", login=team, other_login=analysts)
        targets[ANALYSTS] = Target(
            site=ANALYSTS, origin=settings.smi_analysts_url or "", login=analysts, other_login=team
        )
        context = multiprocessing.get_context("spawn")
        with (
            front(settings, change=lambda text: change(_hurried(text))),
            ProcessPoolExecutor(processes, context) as pool,
        ):
            chunks = [
                (site, pool.submit(send_all, targets[site], seed, range(first, min(first + CHUNK, requests))))
                for first in range(0, requests, CHUNK)
                for site in SITES
            ]
            for site, chunk in chunks:
                if time.monotonic() - started > seconds:
                    chunk.cancel()
                if chunk.cancelled():
                    continue
                answers[site] += chunk.result()
                done = sum(sum(counted.values()) for counted in answers.values())
                if done % (10 * CHUNK) == 0:
                    say(f"{done} requests, {len(judge.violations)} violations")
            unsent = requests * len(SITES) - sum(sum(counted.values()) for counted in answers.values())
    return Outcome(
        seconds=time.monotonic() - started,
        unsent=unsent,
        answers=answers,
        reached=judge.reached,
        kinds=judge.kinds,
        violations=judge.violations,
    )


def _hurried(text: str) -> str:
    """Return the configuration for one client that asks without end: no limit on logins, no waiting for the rest."""
    text = without_login_limit(text)
    for usual in ("client_header_timeout 10s", "client_body_timeout 10s"):
        assert usual in text
        text = text.replace(usual, usual.replace("10s", "200ms"))
    return text
