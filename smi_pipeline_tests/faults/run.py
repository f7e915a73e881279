"""One run: orders are paid, a fault comes and goes, and all has to end well. Judged by the ledgers of the sandbox."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from smi_pipeline.core import faults
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.faults.drawn import Call, Drawn, name_of
from smi_pipeline_tests.faults.shop import Shop, running

MAY_BE_LOST = 3
PATIENCE_SECONDS = 3 * 3600
REAL_SECONDS = 180
"""Four workers wait again and again for a slow host: until its breaker opens after a minute, the clock is not moved."""
PHOTOS = ("coffee-200.jpg", "cutout-200.png", "camera-200.jpg", "chelsea-200.webp")
ONE_PROBE_SECONDS = 60
"""How long a probe of good orders may take by the moved clock: an upscale and the status call after it."""


@dataclass(kw_only=True)
class Run:
    """What one run did. `violations`: one line each."""

    drawn: Drawn
    violations: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    refunded: int = 0
    refusals: int = 0
    minutes: float = 0.0
    seconds: float = 0.0


@dataclass(kw_only=True)
class _Paid:
    number: int
    email: str
    job_id: str
    payment_intent: str


def carry_out(drawn: Drawn, state_url: str, folder: Path, sandbox: Sandbox, *, mark: str) -> Run:
    """Carry out one run on an empty database. `mark`: unlike that of any other run of this sandbox."""
    run = Run(drawn=drawn)
    began = time.monotonic()
    with running(state_url, folder, sandbox) as shop:
        _Course(run, shop, mark).go()
        run.minutes = shop.shifted / 60
    run.seconds = time.monotonic() - began
    return run


class _Course:
    def __init__(self, run: Run, shop: Shop, mark: str) -> None:
        self.run, self.shop, self.mark = run, shop, mark
        self.drawn = run.drawn
        self.paid: list[_Paid] = []
        self._accepted: set[str] = set()

    def go(self) -> None:
        with ThreadPoolExecutor(4) as customers:
            self.paid = list(customers.map(self._order, range(self.drawn.orders)))
        for call in self.drawn.always:
            self._add(call)
        ends = time.monotonic() + REAL_SECONDS
        began_at: float | None = None
        over = not self.drawn.calls
        while time.monotonic() < ends and self.shop.shifted < PATIENCE_SECONDS:
            if began_at is None and not over and self._ended() >= self.drawn.after:
                began_at = self.shop.shifted
                for call in self.drawn.calls:
                    self._add(call)
            until = 0.0 if began_at is None or over else began_at + self.drawn.minutes * 60
            if until and self.shop.shifted >= until:
                over = True
                self._repair()
            if over and self._settled() and not self._can_be_closed_by_an_order():
                break
            worked = self.shop.turn()
            self._ask_for_an_order()
            if not worked:
                self.shop.wait(until)
        for _ in range(3):  # nothing may happen twice
            self.shop.turn()
        self.shop.alert()
        self._judge()

    def _address(self, number: int) -> str:
        photo = PHOTOS[number % len(PHOTOS)]
        return f"{self.shop.sandbox.urls.origin}/photos/{photo}?{name_of(number)}{self.mark}"

    def _order(self, number: int) -> _Paid:
        email = f"{number:02d}-{self.mark}@customers.example"
        answer = self.shop.order(self._address(number), email)
        assert answer.status_code == 201, answer.text
        return self._pay(number, email, answer)

    def _pay(self, number: int, email: str, answer: httpx.Response) -> _Paid:
        job_id = answer.json()["data"]["job_id"]
        return _Paid(number=number, email=email, job_id=job_id, payment_intent=self.shop.pay(job_id))

    def _add(self, call: Call) -> None:
        match = dict(call.match)
        if "image_url" in match:
            match["image_url"] += self.mark
        self.shop.sandbox.fault(call.service, call.kind, match=match, times=call.times, **call.params)

    def _repair(self) -> None:
        for service in {call.service for call in self.drawn.calls}:
            self.shop.sandbox.clear_faults(service)
        for call in self.drawn.always:
            if call.service in {each.service for each in self.drawn.calls}:
                self._add(call)
        if any(call.kind == "other_host" for call in self.drawn.calls):
            self.shop.allow_other_host()

    def _ended(self) -> int:
        return int(self.shop.sql("SELECT count(*) AS n FROM smi.outcomes")[0]["n"])

    def _settled(self) -> bool:
        """Whether every order has ended, money and mail, and every breaker is closed that waiting rows can close."""
        return not self.shop.sql(
            """SELECT 1 FROM smi.upscale_jobs WHERE status IN ('awaiting_payment', 'pending', 'processing', 'failed')
                  AND job_id = ANY(:ids)
               UNION ALL SELECT 1 FROM smi.refunds WHERE state IN ('owed', 'pending')
               UNION ALL SELECT 1 FROM smi.emails WHERE state IN ('claimed', 'handed_over') LIMIT 1""",
            ids=[paid.job_id for paid in self.paid],
        )

    def _can_be_closed_by_an_order(self) -> bool:
        """Whether a breaker is open that waits for the next customer, as none of these orders can probe."""
        return any(name != faults.MAIL for name in self.shop.open_breakers())

    def _ask_for_an_order(self) -> None:
        """A customer comes while breakers are open: nothing may be sold that would be hit."""
        before = self.shop.open_breakers()
        hits = {name for name in before if name != faults.MAIL}
        if not hits or self.shop.sql(
            """SELECT 1 FROM smi.breakers WHERE opened_at IS NOT NULL
               AND greatest(opened_at, next_probe_at) < smi.now() - interval '14 minutes'"""
        ):
            return
        alone = self.shop.sql(
            """SELECT 1 FROM smi.breakers WHERE opened_at IS NOT NULL
               AND greatest(opened_at, next_probe_at) < smi.now() - interval '55 seconds'
               AND NOT EXISTS (SELECT FROM smi.upscale_jobs
                               WHERE status IN ('awaiting_payment', 'pending', 'processing'))"""
        )
        number = len(self.paid)
        email = f"{number:02d}-{self.mark}@customers.example"
        answer = self.shop.order(self._address(number), email)
        self.run.refusals += answer.status_code == 503
        if alone and answer.status_code == 201:  # nobody is left who could probe: this order does, and may not be lost
            self.paid.append(self._pay(number, email, answer))
            return
        after = self.shop.open_breakers()
        still = {name for name in hits if after.get(name) == before[name]}
        if still and answer.status_code != 503:
            self._wrong(f"an order was answered {answer.status_code} while {', '.join(sorted(still))} was open")
        elif answer.status_code == 503 and not answer.json().get("error", answer.json().get("message")):
            self._wrong("an order was refused without a reason")

    def _wrong(self, words: str) -> None:
        if words not in self.run.violations:
            self.run.violations.append(words)

    # --- the verdict

    def _judge(self) -> None:
        sandbox = self.shop.sandbox
        intents = {paid.payment_intent: paid for paid in self.paid}
        alive = [r for r in sandbox.ledger("stripe")["refunds"] if r["payment_intent"] in intents]
        refunds = Counter(r["payment_intent"] for r in alive if r["status"] not in ("failed", "canceled"))
        for payment_intent, times in refunds.items():
            if times > 1:
                self._wrong(f"order {intents[payment_intent].number} was refunded {times} times")
        mails: dict[str, set[str]] = {}
        for mail in sandbox.ledger("mail")["messages"]:
            for to in mail["to"]:
                mails.setdefault(to, set()).add(mail["subject"])
        reasons: Counter[str] = Counter()
        open_ones: Counter[str] = Counter()
        unmailed = 0
        for paid in self.paid:
            job = self.shop.ctx.state.queries.job(paid.job_id)
            assert job is not None
            refunded = paid.payment_intent in refunds
            if refunded and paid.number not in self.drawn.bad:
                reasons[str(job.reason_code)] += 1
            if refunded == (job.status == "completed"):
                open_ones[f"{job.status} ({job.last_error})"] += 1
            unmailed += paid.email not in mails
        self.run.refunded = len(refunds)
        if reasons.total() > MAY_BE_LOST or (reasons and (self.drawn.single or not self.drawn.breakers)):
            self._wrong(f"{reasons.total()} orders were refunded: {dict(reasons)}")
        for words, number in open_ones.items():
            self._wrong(f"{number} orders are neither delivered nor refunded: {words[:150]}")
        if unmailed > (MAY_BE_LOST if "mail_failed" in self.drawn.tasks else 0):
            self._wrong(f"{unmailed} customers got no mail")
        most = max(Counter(s["job_id"] for s in sandbox.ledger("upsampler")["submissions"]
                           if s["job_id"] in {p.job_id for p in self.paid}).values(), default=0)  # fmt: skip
        if most > self.shop.ctx.policy.max_submissions:
            self._wrong(f"one order was submitted {most} times")
        self._judge_breakers()

    def _judge_breakers(self) -> None:
        events = self.shop.sql(
            """SELECT event, at, details->>'breaker' AS name FROM smi.job_events
               WHERE event IN ('breaker_opened', 'breaker_closed') ORDER BY event_id"""
        )
        tasks = self.shop.sql("SELECT kind, subject, message, alerted_at, closed_at FROM smi.person_tasks")
        of_breakers = Counter(task["subject"] for task in tasks if task["kind"] == "breaker")
        opened = Counter(event["name"] for event in events if event["event"] == "breaker_opened")
        self.run.opened = [f"{name} x{n}" if n > 1 else name for name, n in sorted(opened.items())]
        if opened != of_breakers:
            self._wrong(f"breakers opened {dict(opened)}, tasks {dict(of_breakers)}")
        for name in opened:
            expected = name in self.drawn.breakers or ("source" in self.drawn.breakers and faults.is_source(name))
            if not expected:
                self._wrong(f"the breaker {name} opened: {self._message_of(tasks, name)}")
        for name, times in opened.items():
            alerts = sum(f"{faults.headline(name)}: " in a and ": over after" not in a for a in self.shop.alerts)
            if alerts != times:
                self._wrong(f"the breaker {name} opened {times} times, {alerts} alerts")
        if self.drawn.told_once and (self.run.refunded or opened != Counter(self.drawn.breakers)):
            self._wrong(f"{self.run.refunded} orders were refunded, and breakers opened {dict(opened)}")
        self._judge_time(events)
        for task in tasks:
            about = f"task {task['kind']} {task['subject'][:40]}: {task['message'][:120]}"
            alerts = sum(line.startswith(task["message"]) for line in self.shop.alerts)
            if task["kind"] != "breaker" and task["kind"] not in self.drawn.tasks:
                self._wrong(about)
            if task["alerted_at"] and not alerts:
                self._wrong(f"no alert of the {about}")

    def _judge_time(self, events: list[dict[str, Any]]) -> None:
        since: dict[str, Any] = {}
        for event in events:
            if event["event"] == "breaker_opened":
                since[event["name"]] = event["at"]
                continue
            seconds = (event["at"] - since.pop(event["name"], event["at"])).total_seconds()
            if self.drawn.single and seconds > ONE_PROBE_SECONDS:
                self._wrong(f"single orders kept {event['name']} open for {seconds:.0f} s")
        for name in since:
            self._wrong(f"{name} is still open after the end")

    @staticmethod
    def _message_of(tasks: list[dict[str, Any]], name: str) -> str:
        return next((task["message"][:150] for task in tasks if task["subject"] == name), "")
