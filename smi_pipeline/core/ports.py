"""What the services need of the outside world, as Protocols. Adapters implement them; tests may substitute
their own."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from smi_pipeline.core.models import (
    CheckoutRequest,
    CheckoutSession,
    Fetched,
    ImageInfo,
    Queue,
    RenderedMail,
    StoredFile,
    StripeDispute,
    StripeEvent,
    StripePayment,
    StripeRefund,
    SubmitRequest,
    UpscaleReply,
    Verdict,
)
from smi_pipeline.core.vocabulary import CallPurpose


class UpscalerPort(Protocol):
    """The Upsampler API."""

    def submit(self, request: SubmitRequest) -> UpscaleReply:
        """Start one upscale. Costs credits.

        Raises RateLimited (429), AccountError (401/402/403; 404, 405 and redirects: the address is wrong),
        PermanentError (another 4xx), TransientError (certainly not accepted: no connection, an HTML page with status
        200, 408, 425, 503, 521 to 523), AmbiguousError (no answer, another 5xx, unreadable answer).
        """

    def status(self, external_id: str) -> UpscaleReply:
        """Ask for the state of one upscale. Raises NotFound when the service does not know it, else as `submit`
        but never ambiguous."""

    def parse_webhook(self, body: bytes) -> UpscaleReply:
        """Read a webhook of either API format; it only triggers a status call. Raises RefusedError (400)."""


class PaymentsPort(Protocol):
    """Stripe. All calls raise AmbiguousError (no answer, 5xx), AccountError (401/403), RateLimited (429),
    NotFound, PermanentError(reason='stripe_refused', another 4xx)."""

    def create_checkout(self, request: CheckoutRequest) -> CheckoutSession:
        """Create a Checkout session in which the customer pays `amount_cents`."""

    def checkout(self, session_id: str) -> CheckoutSession:
        """Return a Checkout session as it is now."""

    def checkout_of(self, payment_intent_id: str) -> CheckoutSession | None:
        """Return the Checkout session in which a payment was made, None for one that was made elsewhere."""

    def expire_checkout(self, session_id: str) -> None:
        """Close an open session; leave one that is no longer open as it is."""

    def payment(self, payment_intent_id: str) -> StripePayment:
        """Return a PaymentIntent as it is now, with its charge."""

    def payments_since(self, since: datetime, until: datetime | None = None) -> Iterator[StripePayment]:
        """Yield this shop's PaymentIntents (metadata source=sell-my-images) created since, and before `until`, both to
        the second; newest first, page by page."""

    def events_since(
        self, since: datetime, types: tuple[str, ...], until: datetime | None = None
    ) -> Iterator[StripeEvent]:
        """Yield the stored events created since, and before `until`, both to the second; newest first, page by page."""

    def create_refund(
        self, *, payment_intent_id: str, amount_cents: int, idempotency_key: str, metadata: Mapping[str, str]
    ) -> StripeRefund:
        """Refund a part of a payment or all of it, once per idempotency key."""

    def refund(self, refund_id: str) -> StripeRefund:
        """Return a refund as it is now."""

    def refunds_of(self, payment_intent_id: str) -> list[StripeRefund]:
        """Return all refunds of a payment, whoever made them."""

    def disputes_of(self, payment_intent_id: str) -> list[StripeDispute]:
        """Return all disputes of a payment, the oldest first."""

    def parse_webhook(self, body: bytes, signature: str) -> StripeEvent:
        """Verify the signature over the raw body (300 s tolerance). Raises RefusedError (400)."""


class MailerPort(Protocol):
    """Mails: rendering, and delivery to the SMTP server."""

    def render(self, kind: str, *, to: str, message_id: str, context: Mapping[str, Any], at: datetime) -> RenderedMail:
        """Build the complete message of `kind`, dated `at`. Raises RefusedError for line breaks in header values."""

    def send(self, mail: RenderedMail) -> None:
        """Hand the message to the SMTP server. Raises TransientError (4xx, no connection: certainly not accepted),
        AmbiguousError (lost after the content was sent), PermanentError (5xx). Their scope is the shop's if the server
        names its login, sender, account or quota."""

    def reaches(self, address: str) -> bool | None:
        """Return whether the server takes mails to this address as it is written; None if that is not known now."""


class FetcherPort(Protocol):
    """Downloads from allowed hosts, connected to the very address that was checked."""

    def fetch(
        self, url: str, *, kind: str, max_bytes: int, seconds: float | None = None
    ) -> AbstractContextManager[Fetched]:
        """Stream `url` into a temporary file that lives as long as the context. `kind` is 'source' or 'result' and
        chooses the list of allowed hosts; `seconds` ends it, whatever arrives. Raises PermanentError for a refused or
        missing URL, for a body that is empty or no image, and for one over `max_bytes`; TransientError otherwise."""

    def sweep(self) -> int:
        """Remove temporary files that a killed process left an hour ago or earlier; return how many."""


class ImagesPort(Protocol):
    """Inspection of image headers and the image checks (docs/image-checks.md)."""

    def inspect(self, path: Path) -> ImageInfo:
        """Read the header and refuse what is not sold: raise PermanentError (unsupported_format, source_too_large,
        invalid_image) with a sentence that names the cause."""

    def check_source(self, path: Path) -> ImageInfo:
        """`inspect`, then decode all of it. Raises PermanentError for a truncated or damaged source."""

    def fingerprint(self, path: Path) -> bytes:
        """Return what a checked source shows, as `core.likeness` compares it; empty when that cannot be told."""

    def clean_result(self, path: Path) -> list[str]:
        """Rewrite a result without what must not be delivered: bytes behind its end, place, names. The coded pixels
        stay the same bytes. Return what was left out, in words. Raises PermanentError(result_rejected) for a file that
        cannot be read, TransientError when it cannot be written."""

    def check_result(self, source: Path, result: Path, scale: int) -> Verdict:
        """Check a result against the kept source. Never raises for a bad image: the verdict tells."""


class StoragePort(Protocol):
    """Files by key below one root (a folder, or s3://…)."""

    def put(self, key: str, path: Path) -> None:
        """Store a file durably: temporary name, fsync, rename. Raises TransientError when the disk is full."""

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store `content` durably, as `put` does."""

    def open(self, key: str) -> BinaryIO:
        """Open a seekable binary stream. Raises NotFound."""

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        """Provide a local path with the content, for libraries that need one."""

    def size(self, key: str) -> int:
        """Return the size in bytes. Raises NotFound."""

    def delete(self, key: str) -> None:
        """Remove a file; a missing one is fine."""

    def listing(self, prefix: str) -> Iterator[StoredFile]:
        """Yield the files whose keys begin with `prefix`, with size and age. Raises TransientError when the listing
        would be incomplete."""

    def sweep(self) -> int:
        """Remove temporary files that a killed process left an hour ago or earlier; return how many."""

    def shortage(self) -> str | None:
        """Return a sentence about the missing space when nothing more can be stored, None otherwise."""


class LimiterPort(Protocol):
    """The allowances of Upsampler, shared by all processes: one of submissions, one of status calls."""

    def acquire(self, purpose: CallPurpose) -> None:
        """Take one call. Raise RateLimited with the seconds until there is room."""

    def refused(self, purpose: CallPurpose, *, retry_after: float, reason: str) -> None:
        """Record a 429 for every process: the allowance of this purpose pauses, and is smaller afterwards."""


class RunsPort(Protocol):
    """The orchestrator, seen from outside of it."""

    def launch(self, queue: Queue, lease_id: str, size: int) -> str:
        """Start the run of `queue` for a lease of `size` rows and return its id. Raises TransientError."""
