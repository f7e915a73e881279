"""The way of an order, said in the words of the tests."""

from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.models import Queue, StripeEvent, UpscaleJob
from smi_pipeline.services import fulfil, intake, notify, refund, submit
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.intake import JobRequest, RegisteredJob
from smi_pipeline.services.steps import StepResult
from smi_pipeline_tests.integration.services.service_context import Shop

IMAGE = "https://images.example/sunset.png"


class Steps(Shop):
    """A shop whose sensors a test moves by hand."""

    def register(self, *, resolution: str = "4x", url: str = IMAGE) -> RegisteredJob:
        """An order, not paid."""
        request = JobRequest(image_url=url, resolution=resolution, email="customer@example.org", customer_name="Anna")
        return intake.register_job(self.ctx, request)

    def pay(self, job_id: str, amount_cents: int | None = None, *, currency: str = "usd") -> str:
        """The customer pays and the webhook tells of it. Returns the PaymentIntent."""
        amount = self.job(job_id).price_cents if amount_cents is None else amount_cents
        payment_intent = self.payments.pay(job_id, amount, currency=currency)
        self.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, job_id)
        return payment_intent

    def tell(self, type_: str, body: dict, job_id: str | None = None, *, event_id: str | None = None) -> str:
        """A Stripe event arrives."""
        event = self.stripe_event(type_, body, job_id, event_id=event_id)
        return intake.handle_stripe_event(self.ctx, event, source="stripe webhook")

    def stripe_event(
        self, type_: str, body: dict, job_id: str | None = None, *, event_id: str | None = None
    ) -> StripeEvent:
        """An event of now."""
        ours = {"metadata": {"source": "sell-my-images", "job_id": job_id}} if job_id else {}
        return StripeEvent(
            event_id=event_id or f"evt_{type_}_{body.get('id', '')}_{body.get('status', '')}",
            type=type_,
            created_at=self.state.submissions.now(),
            object={**ours, **body},
        )

    def paid(self, *, resolution: str = "4x") -> str:
        """A paid job's id."""
        job_id = self.register(resolution=resolution).job_id
        self.pay(job_id)
        return job_id

    def job(self, job_id: str) -> UpscaleJob:
        job = self.state.queries.job(job_id)
        assert job is not None
        return job

    def events(self, job_id: str) -> list[str]:
        return [event.event for event in self.state.queries.events(job_id)]

    def take(self, queue: Queue) -> tuple[str, list[str]]:
        """Leases what is due."""
        return self.state.leases.lease(queue, 25) or ("", [])

    def begin(self, queue: Queue) -> tuple[str, list[str]] | None:
        """A run starts on what is due."""
        leased = self.state.leases.lease(queue, 25, policy=self.ctx.policy)
        return (leased[0], self.state.leases.start(queue, leased[0])) if leased else None

    def submit_due(self) -> list[StepResult | PermanentError]:
        """One run of submit_upscales over everything that is due."""
        reports: list[StepResult | PermanentError] = []
        while leased := self.begin(Queue.SUBMIT):
            lease_id, keys = leased
            for key in keys:
                try:
                    report = submit.prepare(self.ctx, key, lease_id)
                    reports.append(submit.submit(self.ctx, key, lease_id) if report.state == "done" else report)
                except PermanentError as error:
                    reports.append(error)
        return reports

    def fulfil_due(self) -> list[StepResult | PermanentError]:
        """One run of fulfil_upscales over everything that is due; mails are left owed."""
        reports: list[StepResult | PermanentError] = []
        while once := self.fulfil_one():
            reports.extend(once)
        return reports

    def fulfil_one(self) -> list[StepResult | PermanentError]:
        """One run over what is due now, but not over what becomes due meanwhile."""
        reports: list[StepResult | PermanentError] = []
        if leased := self.begin(Queue.FULFIL):
            lease_id, keys = leased
            for key in keys:
                try:
                    report = fulfil.verify_result(self.ctx, key, lease_id)
                    reports.append(fulfil.deliver(self.ctx, key, lease_id) if report.state == "done" else report)
                except PermanentError as error:
                    reports.append(error)
        return reports

    def refund_due(self) -> list[StepResult | PermanentError]:
        """One run of refund_upscales."""
        return self._each(Queue.REFUND, refund.process)

    def mail_due(self) -> list[StepResult | PermanentError]:
        """One run over the mails owed."""
        return self._each(Queue.MAIL, notify.send)

    def _each(self, queue: Queue, service) -> list[StepResult | PermanentError]:
        reports: list[StepResult | PermanentError] = []
        while leased := self.begin(queue):
            for key in leased[1]:
                try:
                    reports.append(service(self.ctx, key, leased[0]))
                except PermanentError as error:
                    reports.append(error)
        return reports

    def poll(self) -> None:
        """Makes every status call due, and makes it."""
        self.change("UPDATE smi.submissions SET next_poll_at = smi.now() WHERE next_poll_at IS NOT NULL")
        check_completions(self.ctx)

    def everything(self) -> None:
        """All sensors once, in the order of the work."""
        self.submit_due()
        check_completions(self.ctx)
        self.fulfil_due()
        self.refund_due()
        self.mail_due()

    def external_id(self, job_id: str, nth: int = -1) -> str:
        """Upsampler's id of the job's newest call."""
        external_id = self.state.submissions.of_job(job_id)[nth].external_id
        assert external_id is not None
        return external_id

    def delivered(self, *, resolution: str = "4x") -> str:
        """A delivered job's id; its mail is sent."""
        job_id = self.paid(resolution=resolution)
        self.deliver(job_id)
        return job_id

    def complete(self, job_id: str) -> None:
        """A paid job gets its result; its mail is owed."""
        self.submit_due()
        self.upscaler.finish(self.external_id(job_id))
        self.fetcher.bodies["https://cdn.example/result.png"] = b"PNG 400 320"
        self.poll()
        self.fulfil_due()

    def deliver(self, job_id: str) -> None:
        """A paid job gets its result, and its customer the mail."""
        self.complete(job_id)
        self.mail_due()
        assert self.job(job_id).status == "completed"

    def failed(self) -> str:
        """A job that Upsampler could not process: its refund is owed, nothing more has happened."""
        job_id = self.paid()
        self.submit_due()
        self.upscaler.fail(self.external_id(job_id))
        self.poll()
        self.fulfil_due()
        assert self.job(job_id).status == "failed"
        self.state.breakers.note_success("results", self.ctx.policy)  # many in a row would be a fault of the shop
        return job_id

    def outcomes(self, job_id: str) -> list[tuple[int, str]]:
        rows = self.sql("SELECT round, outcome FROM smi.outcomes WHERE job_id = :id ORDER BY round", id=job_id)
        return [(row["round"], row["outcome"]) for row in rows]

    def tasks(self) -> list[str]:
        """Kinds of the open manual tasks."""
        return [task.kind for task in self.state.manual_tasks.opened()]
