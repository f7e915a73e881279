"""A service context on a real PostgreSQL, with the outside played by small recording classes (see `outside`)."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from smi_pipeline.core.allowance import Allowance
from smi_pipeline.core.errors import NotFound, PermanentError, RefusedError
from smi_pipeline.core.models import (
    Fetched,
    ImageInfo,
    RenderedMail,
    Stage,
    StoredFile,
    SubmitRequest,
    UpscaleReply,
    Verdict,
)
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.pricing import Prices
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.state import State
from smi_pipeline.state.database import Database
from smi_pipeline.state.rate_limiter import RateLimiter
from smi_pipeline_tests.integration.services.outside import Outside
from smi_pipeline_tests.integration.services.stripe import FakePayments

SECRET_KEY = "k" * 32


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

    def fail(self, external_id: str, error: str = "Unsupported image") -> None:
        """From now on this upscale is known to have failed."""
        self.replies[external_id] = UpscaleReply(external_id=external_id, stage=Stage.FAILED, error=error, credits=1)


class FakeMailer(Outside):
    """Keeps what the server took (`taken`) and every hand-over (`sent`)."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[RenderedMail] = []
        self.taken: list[RenderedMail] = []
        self.contexts: list[Mapping[str, Any]] = []
        self.takes_utf8: bool | None = None

    def reaches(self, address: str) -> bool | None:
        self.untouched("mailer.reaches")
        return True if address.rpartition("@")[0].isascii() else self.takes_utf8

    def render(self, kind: str, *, to: str, message_id: str, context: Mapping[str, Any], at: datetime) -> RenderedMail:
        self.untouched("mailer.render")
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
        self.seconds: list[float | None] = []

    def sweep(self) -> int:
        return 0

    @contextmanager
    def fetch(self, url: str, *, kind: str, max_bytes: int, seconds: float | None = None) -> Iterator[Fetched]:
        self.called(f"fetcher.fetch {kind}")
        self.seconds.append(seconds)
        body = self.bodies.get(url, b"PNG 100 80" if kind == "source" else b"PNG 400 320")
        if len(body) > max_bytes:
            raise PermanentError("source_too_large", f"over {max_bytes} bytes")
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(body)
            yield Fetched(
                path=Path(file.name),
                bytes=len(body),
                sha256=hashlib.sha256(body).hexdigest(),
            )


class FakeImages(Outside):
    """Images are the words `FORMAT WIDTH HEIGHT shows=WHAT`, the last one optional; `verdict` replaces the judgement of
    results."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Verdict | None = None

    def inspect(self, path: Path) -> ImageInfo:
        self.called("images.inspect")
        return self._facts(path)

    def check_source(self, path: Path) -> ImageInfo:
        self.called("images.check_source")
        return self._facts(path)

    def fingerprint(self, path: Path) -> bytes:
        self.called("images.fingerprint")
        words = path.read_bytes().decode().split()
        shown = [word for word in words if word.startswith("shows=")]
        return Random("".join(shown)).randbytes(3 * 32 * 32)

    def clean_result(self, path: Path) -> list[str]:
        self.called("images.clean_result")
        whole = path.read_bytes()
        path.write_bytes(whole.partition(b" GPS")[0])
        return ["GPS"] if b" GPS" in whole else []

    def check_result(self, source: Path, result: Path, scale: int) -> Verdict:
        self.called("images.check_result")
        return self.verdict or Verdict(ok=True, facts=self._facts(result), min_ssim=0.99, mean_colour_shift=0.1)

    def _facts(self, path: Path) -> ImageInfo:
        return self.facts_of(path.read_bytes())

    @staticmethod
    def facts_of(body: bytes) -> ImageInfo:
        """What `inspect` says of these words."""
        words = body.decode().split()
        if words[0] not in ("PNG", "JPEG", "WEBP"):
            raise PermanentError("unsupported_format", f"{words[0]} is not sold")
        return ImageInfo(
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
        self.short: str | None = None

    def shortage(self) -> str | None:
        return self.short

    def sweep(self) -> int:
        return 0

    def put(self, key: str, path: Path) -> None:
        self.called("storage.put")
        self.files[key] = path.read_bytes()
        self.done()

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

    def listing(self, prefix: str) -> Iterator[StoredFile]:
        for key in sorted(key for key in self.files if key.startswith(prefix)):
            yield StoredFile(key=key, bytes=len(self.files[key]), modified=None)


class Shop:
    """The service context with its fakes in reach, and the steps of the product as a test says them."""

    def __init__(self, url: str, *, policy: Policy | None = None, per_minute: int = 0, prices: Prices | None = None):
        allowance = Allowance(per_minute=per_minute)
        self.policy = replace(policy or Policy(), submissions=allowance, status_calls=allowance)
        self.database = Database(url, pool_size=4)
        self.upscaler, self.payments, self.mailer = FakeUpscaler(), FakePayments(), FakeMailer()
        self.fetcher, self.images, self.storage = FakeFetcher(), FakeImages(), FakeStorage()
        self.limiter = RateLimiter(
            self.database, submissions=self.policy.submissions, status_calls=self.policy.status_calls
        )
        self.ctx = ServiceContext(
            state=State(self.database, secret_keys=(SECRET_KEY,), mail_domain="shop.example"),
            upscaler=self.upscaler,
            payments=self.payments,
            mailer=self.mailer,
            fetcher=self.fetcher,
            images=self.images,
            storage=self.storage,
            limiter=self.limiter,
            policy=self.policy,
            prices=prices or Prices(),
            secret_keys=(SECRET_KEY,),
            actor="test",
        )
        self.state = self.ctx.state

    def close(self) -> None:
        self.database.dispose()

    def later(self, **span: float) -> None:
        """Moves the state's clock forward, with the service alive all the time: `later(minutes=5)`."""
        self.down(**span)
        self.change("UPDATE smi.heartbeat SET at = at + CAST(:by AS interval)", by=timedelta(**span))

    def down(self, **span: float) -> None:
        """Moves the state's clock forward without a sign of life of the service."""
        self.change("UPDATE smi.clock SET shift = shift + CAST(:by AS interval)", by=timedelta(**span))

    def sql(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """Reads what no view shows."""
        with self.database.transaction() as tx:
            return tx.rows(statement, **parameters)

    def everything_written(self) -> dict[str, list[str]]:
        """Every row of the state, by table."""
        tables = self.sql("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'smi' ORDER BY 1")
        return {
            table["name"]: [
                row["row"] for row in self.sql(f"SELECT t::text AS row FROM smi.{table['name']} t ORDER BY 1")
            ]
            for table in tables
        }

    def change(self, statement: str, **parameters: Any) -> int:
        """Writes what no service would: damage, age."""
        with self.database.transaction() as tx:
            return tx.run(statement, **parameters)
