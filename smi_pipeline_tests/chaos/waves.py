"""One wave: points are armed, orders placed, processes die, and all orders have to end.

Belongs here: when what happens. Does not belong here: how it is done (arena.py), what was right (verdict.py).
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from smi_pipeline.demo.evidence import collect
from smi_pipeline_tests.chaos.arena import Arena, Guest
from smi_pipeline_tests.chaos.cases import ITSELF, Kill, Wave
from smi_pipeline_tests.chaos.recipes import FINAL, RECIPES, UNANSWERED, WORKER
from smi_pipeline_tests.chaos.verdict import PATIENCE_SECONDS, judge

LOOK_SECONDS = 0.4
STALLED_SECONDS = 2.5
"""Without any news for so long, the clock is moved to what is due next."""
GATHERED_SECONDS = 4.0
"""Without a further process at its point for so long, the victim is killed."""
REPLACED_SECONDS = 8.0
"""Without news for so long, orders are placed again for the points that nobody has passed."""
TRIES = 8
REAL_SECONDS = 420.0
"""A wave that takes longer is given up; what has not ended by then is stuck."""
ALIVE_SECONDS = 33.0
"""A lease with less left was not renewed when it had to be (every 10 of 45 s): its holder is dead."""
LONGEST_SHIFT_SECONDS = 130.0
PROBE_SECONDS = 10.0
"""How far the clock is moved while all that is due waits for a circuit breaker."""
DAY_SECONDS = 24 * 3600.0


@dataclass(kw_only=True)
class Result:
    """How a wave went. `hit`: the kills that happened; `seconds` of the real clock."""

    wave: Wave
    hit: list[Kill] = field(default_factory=list)
    guests: list[Guest] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    resubmitted: int = 0
    seconds: float = 0.0
    shifted: float = 0.0

    @property
    def missed(self) -> list[Kill]:
        """Points that nobody has passed."""
        return [kill for kill in self.wave.kills if kill not in self.hit]


class Watch:
    """Follows the orders of one wave and moves the clock when nothing happens."""

    def __init__(self, arena: Arena, guests: list[Guest]) -> None:
        self._arena, self._guests = arena, guests
        self._signature: object = None
        self._news_at = time.monotonic()

    def look(self) -> None:
        """Notes what has ended, and whether there is news."""
        arena = self._arena
        with contextlib.suppress(requests.RequestException):
            mailed = {to for mail in arena.shop.ledger("mail")["messages"] for to in mail["to"]}
            for guest in self._guests:
                if guest.ended_at is None and guest.email in mailed:
                    guest.ended_at = arena.now()
        upsampler, stripe = arena.shop.ledger("upsampler"), arena.shop.ledger("stripe")
        signature = (
            len(arena.claims()),
            len(self.open_ones()),
            sum(guest.paid_at is not None for guest in self._guests),
            [record["status"] for record in upsampler["submissions"]],
            len(stripe["refunds"]),
        )
        if signature != self._signature:
            self._signature, self._news_at = signature, time.monotonic()

    @property
    def quiet(self) -> float:
        """Seconds without news."""
        return time.monotonic() - self._news_at

    def news(self) -> None:
        """Something was done to the product: it takes its time."""
        self._news_at = time.monotonic()

    def open_ones(self) -> list[Guest]:
        """Orders that have not ended."""
        return [guest for guest in self._guests if guest.ended_at is None]

    def move_clock(self) -> None:
        """To what is due next, or to where the leases of dead workers end. Not while anybody may be at work."""
        if self.quiet < STALLED_SECONDS:
            return
        if any(guest.paid_at is None for guest in self._guests) and not self._arena.refuses_orders():
            return
        if self._arena.send_anew([guest.job_id for guest in self.open_ones() if guest.job_id]):
            self.news()
            return
        longest, due = self._arena.pace()
        if longest is not None and longest > 0:
            if longest <= ALIVE_SECONDS:
                self._arena.shift(longest + 1)
                self.news()
        elif due is not None and due > 2:
            self._arena.shift(min(due + 0.5, LONGEST_SHIFT_SECONDS if self.open_ones() else due + 0.5))
            self.news()
        elif self._arena.refuses_orders():  # what is due waits for the next probe
            self._arena.shift(PROBE_SECONDS)
            self.news()


def run(arena: Arena, wave: Wave, seed: int) -> Result:
    """Carries one wave through and judges its orders."""
    result = Result(wave=wave)
    started, shifted = time.monotonic(), arena.shifted
    if wave.final:
        _final(arena, wave, result)
    else:
        _ordinary(arena, wave, result, random.Random(f"{seed}/{wave.number}"))
    arena.disarm()
    result.seconds, result.shifted = time.monotonic() - started, arena.shifted - shifted
    _judge(arena, wave, result)
    return result


def _ordinary(arena: Arena, wave: Wave, result: Result, chance: random.Random) -> None:
    for kill in wave.kills:
        arena.arm(kill.armed, "kill" if kill.victim == ITSELF else "hang")
    waits = {kill.armed for kill in wave.kills if kill.victim != ITSELF}
    result.guests += [arena.place(kill.recipe) for kill in wave.kills]
    tries: Counter[str] = Counter()
    watch = Watch(arena, result.guests)
    ends = time.monotonic() + REAL_SECONDS
    while time.monotonic() < ends:
        watch.look()
        _note_hits(arena, wave, result)
        waiting = [claim for name, claim in arena.claims().items() if name in waits]
        if waiting and (watch.quiet > GATHERED_SECONDS or not waits & arena.armed()):
            _kill_while_they_wait(arena, wave.victim, waiting, chance)
            watch.news()
        missed = [kill for kill in result.missed if tries[kill.armed] < TRIES]
        if not missed and not watch.open_ones():
            return
        on_their_way = {guest.case_name for guest in watch.open_ones()}
        again = [kill for kill in missed if kill.recipe not in on_their_way]
        if again and watch.quiet > REPLACED_SECONDS:
            for kill in again:
                tries[kill.armed] += 1
                result.guests.append(arena.place(kill.recipe))
            watch.news()
        watch.move_clock()
        time.sleep(LOOK_SECONDS)


def _note_hits(arena: Arena, wave: Wave, result: Result) -> None:
    claims = arena.claims()
    result.hit += [kill for kill in result.missed if kill.armed in claims]


def _kill_while_they_wait(arena: Arena, victim: str, waiting: Sequence[Path], chance: random.Random) -> None:
    """The victim dies; those who wait go on while it is down, or after it is back."""
    back = waiting_for_return(arena, victim)
    arena.kill(victim)
    if chance.random() < 0.5:
        back()
    for claim in waiting:
        claim.unlink(missing_ok=True)
    back()


def waiting_for_return(arena: Arena, victim: str) -> Callable[[], None]:
    """Call before the victim is killed; the answer waits until it is there again."""
    before = set() if victim == "postgres" else set(arena.pids(victim))

    def back() -> None:
        ends = time.monotonic() + 60
        if victim == "postgres":
            time.sleep(0.3)
            arena.sql("SELECT 1")
            return
        while not (now := set(arena.pids(victim))) or now & before:
            if time.monotonic() > ends:
                break
            time.sleep(0.1)
        if victim == "gateway":
            while time.monotonic() < ends:
                with contextlib.suppress(requests.RequestException):
                    if arena.shop.http.get(f"{arena.memory.url('gateway')}/health", timeout=2).ok:
                        return
                time.sleep(0.1)

    return back


def _final(arena: Arena, wave: Wave, result: Result) -> None:
    """What only the clean-up does: it is started just after a payment nobody told of, and a day after an order that
    nobody paid, by the state's clock alone, or Stripe would close its Checkout itself."""
    for recipe in reversed(FINAL):
        kills = [kill for kill in wave.kills if kill.recipe == recipe]
        for kill in kills:
            arena.arm(kill.armed, "kill")
        paid = recipe != "never-paid"
        watch = Watch(arena, result.guests)
        ends = time.monotonic() + REAL_SECONDS
        unpaid = [] if paid else [arena.place(recipe, pay=False) for _ in range(2 * len(kills))]
        if unpaid:
            while any(not guest.job_id for guest in unpaid) and time.monotonic() < ends:
                time.sleep(0.2)
            arena.sql(
                "UPDATE smi.clock SET shift = make_interval(secs => :seconds)", seconds=arena.shifted + DAY_SECONDS
            )
        while any(kill in result.missed for kill in kills) and time.monotonic() < ends:
            if paid:
                guest = arena.place(recipe)
                result.guests.append(guest)
                while guest.paid_at is None and time.monotonic() < ends:
                    time.sleep(0.02)
            arena.launch("clean_up")
            hit = len(result.hit)
            look_until = time.monotonic() + 6
            while time.monotonic() < look_until and len(result.hit) == hit:
                time.sleep(0.1)
                _note_hits(arena, wave, result)
        if unpaid:
            arena.shift(DAY_SECONDS)
        drain(arena, result.guests, watch)


def drain(arena: Arena, guests: Sequence[Guest], watch: Watch | None = None) -> None:
    """Waits until all orders have ended, moving the clock on; gives up when their time is over."""
    watch = watch or Watch(arena, list(guests))
    ends = time.monotonic() + REAL_SECONDS
    while time.monotonic() < ends:
        watch.look()
        if not any(arena.now() - guest.paid_by_clock < PATIENCE_SECONDS for guest in watch.open_ones()):
            return
        watch.move_clock()
        time.sleep(LOOK_SECONDS)


def _judge(arena: Arena, wave: Wave, result: Result) -> None:
    unanswered = sum(kill.process == WORKER and kill.point in UNANSWERED for kill in wave.kills)
    ambiguous = None if wave.victim == "postgres" else unanswered
    verdict = judge(result.guests, collect(arena.shop, arena.memory), arena.now(), ambiguous=ambiguous)
    result.violations, result.resubmitted = verdict.violations, verdict.resubmitted


def at_random(arena: Arena, seed: int, seconds: float) -> Result:
    """Orders flow for so long, and whoever chance names dies every few seconds."""
    chance = random.Random(f"{seed}/random")
    result = Result(wave=Wave(number=0, victim="random", kills=()))
    started, shifted = time.monotonic(), arena.shifted
    workers = ("workers", "worker-fulfilment", "worker-priority")
    victims = ("daemon", "code-fulfilment", "gateway", "postgres", *workers, "webserver")
    kinds = [name for name in RECIPES if name not in FINAL]
    watch = Watch(arena, result.guests)
    next_order, next_death = 0.0, 3.0
    while (passed := time.monotonic() - started) < seconds:
        if passed >= next_order:
            result.guests.append(arena.place(chance.choice(kinds)))
            next_order += chance.uniform(0.3, 1.5)
        if passed >= next_death:
            victim = chance.choice((*victims, "run", "run", "run"))
            arena.kill_a_run(chance.choice) if victim == "run" else arena.kill(victim)
            next_death += chance.uniform(2, 8)
        time.sleep(0.05)
        watch.look()
    drain(arena, result.guests, watch)
    result.seconds, result.shifted = time.monotonic() - started, arena.shifted - shifted
    verdict = judge(result.guests, collect(arena.shop, arena.memory), arena.now(), ambiguous=None)
    result.violations, result.resubmitted = verdict.violations, verdict.resubmitted
    return result
