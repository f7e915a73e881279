"""A world whose state is a real PostgreSQL and whose outside is played by small recording classes.

Each fake asserts at every call that no transaction is open, keeps a ledger of what it was asked to do, and takes the
next entry of `faults` (an exception to raise) before it does it. `after_effect` faults are raised when the effect has
happened: the answer was lost.
"""

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from smi_pipeline.adapters.postgres import PostgresState
from smi_pipeline.adapters.postgres.database import Database, transaction_is_open
from smi_pipeline.adapters.postgres.limiter import PostgresLimiter
from smi_pipeline.core.errors import NotFound, PermanentError, RefusedError
from smi_pipeline.core.models import (
    CheckoutSession,
    Fetched,
    ImageFacts,
    PaymentFacts,
    RefundFacts,
    RenderedMail,
    Stage,
    StripeEvent,
    SubmitRequest,
    UpscaleReply,
    Verdict,
)
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.pricing import Prices
from smi_pipeline.services.world import World

SECRET_KEY = "k" * 32


class Outside:
    """What all fakes share."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: deque[Exception | None] = deque()
        self.after_effect: deque[Exception | None] = deque()

    def called(self, what: str) -> None:
        """Notes a call; raises the fault that is due."""
        assert not transaction_is_open(), f"{what} was called while a transaction is open"
        self.calls.append(what)
        fault = self.faults.popleft() if self.faults else None
        if fault:
            raise fault

    def done(self) -> None:
        """The effect has happened; the answer may get lost."""
        fault = self.after_effect.popleft() if self.after_effect else None
        if fault:
            raise fault


class FakeUpscaler(Outside):
    """Accepts every upscale; `replies` by external id say how one stands."""

    def __init__(self) -> None:
        super().__init__()
        self.submissions: list[SubmitRequest] = []
        self.replies: dict[str, UpscaleReply] = {}

    def submit(self, request: SubmitRequest) -> UpscaleReply:
        self.called("upscaler.submit")
        self.submissions.append(request)
        external_id = f"up_{request.job_id[:8]}_{len(self.submissions)}"
        reply = UpscaleReply(external_id=external_id, stage=Stage.QUEUED, credits=2)
        self.replies.setdefault(external_id, reply)
        self.done()
        return reply

    def status(self, external_id: str) -> UpscaleReply:
        self.called("upscaler.status")
        if external_id not in self.replies:
            raise NotFound(external_id)
        return self.replies[external_id]

    def parse_webhook(self, body: bytes) -> UpscaleReply:
        if not body.startswith(b"up_"):
            raise RefusedError("unreadable")
        return UpscaleReply(external_id=body.decode(), stage=Stage.COMPLETED)

    def finish(self, external_id: str, *, url: str = "https://cdn.example/result.png") -> None:
        """From now on this upscale is known to be completed."""
        self.replies[external_id] = UpscaleReply(
            external_id=external_id, stage=Stage.COMPLETED, result_url=url, credits=2
        )

    def fail(self, external_id: str, error: str = "no faces") -> None:
        """From now on this upscale is known to have failed."""
        self.replies[external_id] = UpscaleReply(external_id=external_id, stage=Stage.FAILED, error=error, credits=1)


class FakePayments(Outside):
    """A Stripe that refuses over-refunds and replays idempotency keys. `refund_status` is what a new refund says."""

    def __init__(self) -> None:
        super().__init__()
        self.intents: dict[str, PaymentFacts] = {}
        self.refunds: dict[str, RefundFacts] = {}
        self.by_key: dict[str, tuple[str, int]] = {}
        self.keys: list[str] = []
        self.sessions: dict[str, CheckoutSession] = {}
        self.events: list[StripeEvent] = []
        self.refund_status = "succeeded"

    def pay(self, job_id: str, amount_cents: int, *, currency: str = "usd", at: datetime | None = None) -> str:
        """A customer pays; returns the PaymentIntent."""
        payment_intent = f"pi_{len(self.intents) + 1}_{job_id[:6]}"
        self.intents[payment_intent] = PaymentFacts(
            payment_intent_id=payment_intent,
            status="succeeded",
            amount_cents=amount_cents,
            amount_received_cents=amount_cents,
            currency=currency,
            metadata={"job_id": job_id, "source": "sell-my-images"},
            charge_id=f"ch_{payment_intent}",
            fee_cents=32,
            created_at=at,
        )
        return payment_intent

    def dispute(self, payment_intent: str, *, refundable: bool) -> None:
        """The bank is asked for the money back, or has decided."""
        self.intents[payment_intent] = replace(self.intents[payment_intent], disputed=True, refundable=refundable)

    def refund_by_hand(self, payment_intent: str, amount_cents: int, status: str = "succeeded") -> RefundFacts:
        """Somebody refunds in the dashboard."""
        facts = RefundFacts(
            refund_id=f"re_hand{len(self.refunds) + 1}",
            payment_intent_id=payment_intent,
            amount_cents=amount_cents,
            currency=self.intents[payment_intent].currency,
            status=status,
        )
        self.refunds[facts.refund_id] = facts
        return facts

    def set_refund(self, refund_id: str, status: str, failure_reason: str | None = None) -> RefundFacts:
        """A refund moves on at Stripe."""
        self.refunds[refund_id] = replace(self.refunds[refund_id], status=status, failure_reason=failure_reason)
        return self.refunds[refund_id]

    def returned_cents(self, payment_intent: str) -> int:
        """Money given back or on its way, by the ledger."""
        alive = ("pending", "requires_action", "succeeded")
        return sum(r.amount_cents for r in self.refunds_in(payment_intent) if r.status in alive)

    def refunds_in(self, payment_intent: str) -> list[RefundFacts]:
        """The ledger's refunds of one payment."""
        return [refund for refund in self.refunds.values() if refund.payment_intent_id == payment_intent]

    def create_checkout(self, *, job_id: str, idempotency_key: str, amount_cents: int, **_: Any) -> CheckoutSession:
        self.called("payments.create_checkout")
        session = CheckoutSession(
            session_id=f"cs_{job_id[:8]}",
            url=f"https://pay.example/{job_id}",
            status="open",
            payment_status="unpaid",
            payment_intent_id=None,
            metadata={"job_id": job_id, "source": "sell-my-images"},
        )
        self.sessions[session.session_id] = session
        return session

    def checkout(self, session_id: str) -> CheckoutSession:
        self.called("payments.checkout")
        if session_id not in self.sessions:
            raise NotFound(session_id)
        return self.sessions[session_id]

    def expire_checkout(self, session_id: str) -> None:
        self.called("payments.expire_checkout")
        if session_id not in self.sessions:
            raise NotFound(session_id)
        if self.sessions[session_id].status == "open":
            self.sessions[session_id] = replace(self.sessions[session_id], status="expired")

    def payment(self, payment_intent_id: str) -> PaymentFacts:
        self.called("payments.payment")
        if payment_intent_id not in self.intents:
            raise NotFound(payment_intent_id)
        return self.intents[payment_intent_id]

    def payments_since(self, since: datetime) -> Iterator[PaymentFacts]:
        self.called("payments.payments_since")
        yield from list(self.intents.values())

    def events_since(self, since: datetime, types: tuple[str, ...]) -> Iterator[StripeEvent]:
        self.called("payments.events_since")
        yield from [event for event in self.events if event.created_at >= since]

    def create_refund(
        self, *, payment_intent_id: str, amount_cents: int, idempotency_key: str, metadata: Mapping[str, str]
    ) -> RefundFacts:
        self.called("payments.create_refund")
        self.keys.append(idempotency_key)
        if idempotency_key in self.by_key:
            refund_id, amount = self.by_key[idempotency_key]
            assert amount == amount_cents, "an idempotency key was used again with other parameters"
            return self.refunds[refund_id]
        intent = self.intents[payment_intent_id]
        if not intent.refundable:
            raise PermanentError("charge_disputed", "the charge is disputed")
        if self.returned_cents(payment_intent_id) + amount_cents > intent.amount_received_cents:
            raise PermanentError("charge_already_refunded", "more than was paid")
        facts = RefundFacts(
            refund_id=f"re_{len(self.refunds) + 1}",
            payment_intent_id=payment_intent_id,
            amount_cents=amount_cents,
            currency=intent.currency,
            status=self.refund_status,
            metadata=dict(metadata),
            failure_reason="lost_or_stolen_card" if self.refund_status == "failed" else None,
        )
        self.refunds[facts.refund_id] = facts
        self.by_key[idempotency_key] = (facts.refund_id, amount_cents)
        self.done()
        return facts

    def refund(self, refund_id: str) -> RefundFacts:
        self.called("payments.refund")
        return self.refunds[refund_id]

    def refunds_of(self, payment_intent_id: str) -> list[RefundFacts]:
        self.called("payments.refunds_of")
        return self.refunds_in(payment_intent_id)

    def parse_webhook(self, body: bytes, signature: str) -> StripeEvent:
        raise NotImplementedError


class FakeMailer(Outside):
    """Keeps what the server took (`taken`) and every hand-over (`sent`)."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[RenderedMail] = []
        self.taken: list[RenderedMail] = []
        self.contexts: list[Mapping[str, Any]] = []

    def render(self, kind: str, *, to: str, message_id: str, context: Mapping[str, Any], at: datetime) -> RenderedMail:
        assert not transaction_is_open()
        if "\n" in to:
            raise RefusedError("a line break in the recipient")
        self.contexts.append(context)
        content = f"{kind} to {to} at {at.isoformat()}: {sorted(context.items(), key=str)}".encode()
        return RenderedMail(
            message_id=message_id, sender="shop@example.com", recipients=(to,), subject=kind, content=content
        )

    def send(self, mail: RenderedMail) -> None:
        self.called("mailer.send")
        self.sent.append(mail)
        self.taken.append(mail)
        self.done()

    def subjects(self) -> list[str]:
        """Kinds of the mails that customers got, by distinct Message-ID."""
        return [kind for _, kind in sorted({(mail.message_id, mail.subject) for mail in self.taken})]


class FakeFetcher(Outside):
    """Serves `bodies` by URL; any other URL gives a fixed body."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[str, bytes] = {}

    @contextmanager
    def fetch(self, url: str, *, kind: str, max_bytes: int) -> Iterator[Fetched]:
        self.called(f"fetcher.fetch {kind}")
        body = self.bodies.get(url, b"PNG 100 80" if kind == "source" else b"PNG 400 320")
        if len(body) > max_bytes:
            raise PermanentError("source_too_large", f"over {max_bytes} bytes")
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(body)
            yield Fetched(
                path=Path(file.name),
                bytes=len(body),
                sha256=hashlib.sha256(body).hexdigest(),
                content_type="image/png",
                final_url=url,
            )


class FakeImages(Outside):
    """Images are the words `FORMAT WIDTH HEIGHT`; `verdict` replaces the judgement of results."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Verdict | None = None

    def inspect(self, path: Path) -> ImageFacts:
        self.called("images.inspect")
        return self._facts(path)

    def check_source(self, path: Path) -> ImageFacts:
        self.called("images.check_source")
        return self._facts(path)

    def check_result(self, source: Path, result: Path, scale: int) -> Verdict:
        self.called("images.check_result")
        return self.verdict or Verdict(ok=True, facts=self._facts(result), min_ssim=0.99, mean_colour_shift=0.1)

    @staticmethod
    def _facts(path: Path) -> ImageFacts:
        body = path.read_bytes()
        words = body.decode().split()
        if words[0] not in ("PNG", "JPEG", "WEBP"):
            raise PermanentError("unsupported_format", f"{words[0]} is not sold")
        return ImageFacts(
            format=words[0],
            width=int(words[1]),
            height=int(words[2]),
            bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
        )


class FakeStorage(Outside):
    """Files in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def put(self, key: str, path: Path) -> None:
        self.called("storage.put")
        self.files[key] = path.read_bytes()

    def put_bytes(self, key: str, content: bytes) -> None:
        self.called("storage.put_bytes")
        self.files[key] = content

    def open(self, key: str) -> BytesIO:
        self.called("storage.open")
        return BytesIO(self.files[key])

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        self.called("storage.local_path")
        if key not in self.files:
            raise NotFound("There is no such file in the storage.")
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(self.files[key])
            yield Path(file.name)

    def size(self, key: str) -> int:
        return len(self.files[key])

    def delete(self, key: str) -> None:
        self.called("storage.delete")
        self.files.pop(key, None)

    def keys(self, prefix: str) -> Iterator[str]:
        yield from sorted(key for key in self.files if key.startswith(prefix))


class Shop:
    """The world with its fakes in reach, and the steps of the product as a test says them."""

    def __init__(self, url: str, *, policy: Policy | None = None, per_minute: int = 0, prices: Prices | None = None):
        self.policy = policy or Policy()
        self.database = Database(url, pool_size=4)
        self.upscaler, self.payments, self.mailer = FakeUpscaler(), FakePayments(), FakeMailer()
        self.fetcher, self.images, self.storage = FakeFetcher(), FakeImages(), FakeStorage()
        self.limiter = PostgresLimiter(self.database, per_minute=per_minute, per_hour=0)
        self.world = World(
            state=PostgresState(self.database, secret_key=SECRET_KEY, mail_domain="shop.example"),
            upscaler=self.upscaler,
            payments=self.payments,
            mailer=self.mailer,
            fetcher=self.fetcher,
            images=self.images,
            storage=self.storage,
            limiter=self.limiter,
            policy=self.policy,
            prices=prices or Prices(),
            secret_key=SECRET_KEY,
            actor="test",
        )
        self.state = self.world.state

    def close(self) -> None:
        self.database.dispose()

    def later(self, **span: float) -> None:
        """Moves the state's clock forward: `later(minutes=5)`."""
        with self.database.transaction() as tx:
            tx.run("UPDATE smi.clock SET shift = shift + CAST(:by AS interval)", by=timedelta(**span))

    def sql(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """Reads what no view shows."""
        with self.database.transaction() as tx:
            return tx.rows(statement, **parameters)

    def change(self, statement: str, **parameters: Any) -> int:
        """Writes what no service would: damage, age."""
        with self.database.transaction() as tx:
            return tx.run(statement, **parameters)
