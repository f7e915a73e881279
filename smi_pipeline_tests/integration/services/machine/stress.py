"""A shop whose workers, customers, admins and partners do what a test says, with the books a judge needs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smi_pipeline.core.errors import PermanentError, SmiError
from smi_pipeline.core.models import (
    ManualTask,
    Queue,
    Stage,
    Status,
    SubmitRequest,
    UpscaleReply,
    Verdict,
)
from smi_pipeline.services import admin, fulfil, intake, notify, refund, submit
from smi_pipeline.services.completions import check_completions, take_hint
from smi_pipeline.services.reconciliation import stripe_events, stripe_payments
from smi_pipeline_tests.integration.services.machine.crew import Interruption
from smi_pipeline_tests.integration.services.machine.customers import END, Customers, Order
from smi_pipeline_tests.integration.services.steps import Steps


@dataclass(frozen=True)
class Call:
    """A call to Upsampler that was begun: when, and how long its worker had waited by then."""

    job_id: str
    at: float
    waited: float


class Stress(Customers):
    """Steps of the whole world, each small enough to be mixed with any other."""

    def __init__(self, shop: Steps) -> None:
        super().__init__(shop)
        self.calls: list[Call] = []
        self.clock = 0.0  # seconds that were let pass
        self.crew.watch(shop.database)
        for port in (shop.upscaler, shop.payments, shop.mailer, shop.fetcher, shop.images, shop.storage):
            port.watch = self.crew.moment
        plain_submit, plain_check = shop.upscaler.submit, shop.images.check_result

        def submit_upscale(request: SubmitRequest) -> UpscaleReply:
            worker = self.crew.worker
            self.calls.append(Call(request.job_id, self.clock, worker.waited if worker else 0.0))
            return plain_submit(request)

        def check_result(source: Path, result: Path, scale: int) -> Verdict:
            if b"black" in result.read_bytes():
                return Verdict(ok=False, facts=None, reason="result_rejected", message="a black tile")
            return plain_check(source, result, scale)

        shop.upscaler.submit = submit_upscale  # type: ignore[method-assign]
        shop.images.check_result = check_result  # type: ignore[method-assign]

    # --- Upsampler

    def undecided(self) -> list[str]:
        """Upscales that Upsampler has not ended."""
        return [key for key, reply in self.shop.upscaler.replies.items() if reply.stage is Stage.QUEUED]

    def decide(self, external_id: str, how: str) -> None:
        """Upsampler ends an upscale: with a good image, with a black one, with none, or as failed."""
        job_id, url = self.upscale_of(external_id).job_id, f"https://cdn.example/{external_id}.png"
        if how == "failed":
            self.shop.upscaler.fail(external_id)
            return
        self.shop.fetcher.bodies[url] = f"PNG 400 320 {job_id} {'black' if how == 'black' else ''}".encode()
        self.shop.upscaler.finish(external_id, url=url if how != "no image" else "")

    def upscale_of(self, external_id: str) -> SubmitRequest:
        """What Upsampler was asked for."""
        return self.shop.upscaler.submissions[int(external_id.rsplit("_", 1)[1]) - 1]

    def hint(self, external_id: str, fate: Interruption = END) -> None:
        """The webhook of an upscale arrives: for the first time, or again."""
        token = self.upscale_of(external_id).webhook_url.rsplit("/", 1)[1]
        self._start("webhook", lambda: take_hint(self.ctx, token, external_id.encode()), fate)

    # --- our processes

    def work(self, queue: Queue, fate: Interruption = END, *, limit: int = 25) -> None:
        """A run works on one lease of what is due."""
        self._start(f"{queue} run", lambda: self._batch(queue, limit), fate)

    def poll(self, fate: Interruption = END) -> None:
        """A tick of the sensor that asks Upsampler."""
        self._start("completions", lambda: check_completions(self.ctx, limit=5), fate)

    def reconcile(self, fate: Interruption = END) -> None:
        """A look into Stripe's lists for what we do not know."""

        def look() -> None:
            back = [order for order in self.orders if order.payments and self.kept(order) == 0]
            stripe_events.reconcile_events(self.ctx)
            stripe_payments.compare_payments(self.ctx)
            for order in back:
                order.seen_back |= self.kept(order) == 0 and self.shop.job(order.job_id).status != "completed"

        self._start("reconciliation", look, fate)

    def clean_up(self, fate: Interruption = END) -> None:
        """Orders that nobody paid are closed."""
        self._start("clean-up", lambda: intake.close_abandoned(self.ctx, 50), fate)

    def tick(self) -> None:
        """Every sensor once, and all goes well."""
        for queue in (Queue.SUBMIT, None, Queue.FULFIL, Queue.REFUND, Queue.MAIL):
            self.work(queue) if queue else self.poll()

    def wake(self, number: int, fate: Interruption = END) -> None:
        """A worker that waited goes on, whatever was done to its rows meanwhile."""
        self.crew.wake(self.crew.waiting[number % len(self.crew.waiting)], fate)
        self._news()

    def _batch(self, queue: Queue, limit: int) -> None:
        leases, worker = self.ctx.state.leases, self.crew.worker
        leased = leases.lease(queue, limit)
        if leased is None:
            return
        if worker:
            worker.lease_id = leased[0]
        for key in leases.start(queue, leased[0]):
            try:
                self._one(queue, key, leased[0])
            except PermanentError:
                if queue in (Queue.SUBMIT, Queue.FULFIL):
                    self._failure_hook(key)

    def _one(self, queue: Queue, key: str, lease_id: str) -> None:
        match queue:
            case Queue.SUBMIT:
                if submit.prepare(self.ctx, key, lease_id).state == "done":
                    submit.submit(self.ctx, key, lease_id)
            case Queue.FULFIL:
                if fulfil.verify_result(self.ctx, key, lease_id).state != "done":
                    return
                if fulfil.deliver(self.ctx, key, lease_id).state == "done":
                    notify.send_owed(self.ctx, key)
            case Queue.REFUND:
                refund.process(self.ctx, key, lease_id)
                row = self.ctx.state.refunds.get(int(key))
                if row and row.job_id:
                    notify.send_owed(self.ctx, row.job_id)
            case Queue.MAIL:
                notify.send(self.ctx, key, lease_id)

    def _failure_hook(self, job_id: str) -> None:
        job = self.ctx.state.queries.job(job_id)
        if job and job.status is Status.FAILED:
            try:
                refund.refund_now(self.ctx, job_id)
                notify.send_owed(self.ctx, job_id)
            except SmiError:
                pass

    # --- an admin, and time

    def admin(self, order: Order, action: str, fate: Interruption = END) -> None:
        """An operator does one thing to one job."""
        job = self.shop.job(order.job_id)
        if action == "retry" and job.status not in (Status.PENDING, Status.PROCESSING):
            order.gifts += 1
        if action == "refund" and (job.status is Status.COMPLETED or order.gifts):
            order.goodwill = True
        order.resends += action == "resend"
        commands: dict[str, Callable[[], object]] = {
            "retry": lambda: admin.retry(self.ctx, order.job_id, admin_override=True),
            "refund": lambda: admin.refund_job(self.ctx, order.job_id),
            "cancel": lambda: admin.cancel(self.ctx, order.job_id),
            "resend": lambda: admin.resend(self.ctx, order.job_id),
            "check": lambda: admin.check(self.ctx, order.job_id),
            "hold": lambda: admin.hold(self.ctx, order.job_id, "a question"),
            "release": lambda: admin.release(self.ctx, order.job_id),
        }
        self._start(f"admin {action}", commands[action], fate)

    def time(self, seconds: float, *, alive: bool) -> None:
        """Time passes. `alive`: workers that wait are slow, and their leases are renewed; else they are frozen."""
        step = 30.0 if alive and self.crew.waiting else seconds
        left = seconds
        while left > 0:
            span = min(step, left)
            self.shop.later(seconds=span)
            left -= span
            if alive:
                for worker in self.crew.waiting:
                    if worker.lease_id:
                        self.ctx.state.leases.renew(worker.lease_id)
        self.clock += seconds
        for worker in self.crew.waiting:
            worker.waited += seconds

    def down(self, seconds: float) -> None:
        """Everything of ours stands still."""
        self.shop.down(seconds=seconds)
        self.clock += seconds
        for worker in self.crew.waiting:
            worker.waited += seconds

    # --- how it ends

    def heal(self, *, rounds: int = 80) -> None:
        """Everything works again, whoever must act does, and time passes until nothing is left to do: at most so many
        rounds of ten minutes."""
        while self.crew.waiting:
            self.wake(0)
        stripe = self.shop.payments
        stripe.refund_status = "succeeded"
        for order in self.orders:
            if order.disputed and not stripe.intents[order.payments[0]].refundable and not self._lost(order):
                self.dispute(order, "won")
        if self.strays:
            self.reconcile()
            self.time(700, alive=False)
        for _ in range(rounds):
            for external_id in self.undecided():
                self.decide(external_id, "good")
            for made in list(stripe.refunds.values()):
                self.refund_moves(made, "succeeded")
            self.reconcile()
            self._person()
            for _ in range(3):
                self.tick()
            if not self._open():
                return
            self.time(600, alive=False)

    def _person(self) -> None:
        for stray in self.strays:
            if not stray.answered:
                self.settle(stray, None if stray.to_return else stray.adopter)
        strays = {each.intent: each for each in self.strays}
        for task in self.ctx.state.manual_tasks.opened():
            paid = strays.get(task.subject)
            # its return failed, or it could not be adopted
            if paid and paid.answered and task.kind == ("orphan_payment" if paid.adopter else "refund_failed"):
                self.settle(paid, None)
            elif task.kind == "refund_failed":
                self._start("person", lambda: self._refund_again(task), END)  # noqa: B023 - it is called at once
        for order in self.orders:
            if self.shop.job(order.job_id).hold_reason:
                self.admin(order, "release")

    def _refund_again(self, task: ManualTask) -> None:
        """What the task tells a person to do."""
        if task.job_id and "jobs refund " in task.next_step:
            admin.refund_job(self.ctx, task.job_id)
        else:
            admin.refund_payment(self.ctx, task.subject)

    def _lost(self, order: Order) -> bool:
        return any(
            event.type == "charge.dispute.closed"
            and event.object["payment_intent"] == order.payments[0]
            and event.object["status"] == "lost"
            for event in self.shop.payments.events
        )

    def _open(self) -> bool:
        """Whether anything of a paid order is still to be done."""
        return bool(
            self.shop.sql(
                """SELECT 1 FROM smi.upscale_jobs WHERE status IN ('pending', 'processing')
                   UNION ALL SELECT 1 FROM smi.refunds WHERE state IN ('owed', 'pending')
                   UNION ALL SELECT 1 FROM smi.emails WHERE state IN ('claimed', 'handed_over')
                   UNION ALL SELECT 1 FROM smi.submissions WHERE state IN ('sending', 'accepted') LIMIT 1"""
            )
        )


def mails_of(stress: Stress) -> Counter[tuple[str, str]]:
    """Hand-overs that the mail server took, by Message-ID and kind."""
    return Counter((mail.message_id, mail.subject) for mail in stress.shop.mailer.taken)
