"""Fetches what the verdict looks at, fast enough for thousands of jobs: by a pool of threads, and nothing twice."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from smi_pipeline.demo.environment import OWNER
from smi_pipeline.demo.evidence import letter_of
from smi_pipeline.demo.judge import LINK, Letter
from smi_pipeline.demo.orders import Memory, Order
from smi_pipeline.demo.shop import Shop
from smi_pipeline.state.database import Database
from smi_pipeline.state.manual_tasks import ManualTasks
from smi_pipeline_tests.soak.faults import label

_THREADS = 12
_TIMEOUT_SECONDS = 60


@dataclass(kw_only=True)
class Seen:
    """The evidence, in the form the verdict asks for it. Every mapping answers emptily for what it does not have."""

    intents: Mapping[str, list[dict[str, Any]]]  # by job id
    all_intents: list[dict[str, Any]]
    refunds: Mapping[str, list[dict[str, Any]]]  # by payment intent
    disputes: Mapping[str, list[dict[str, Any]]]  # by payment intent
    submissions: Mapping[str, list[dict[str, Any]]]  # by image address
    letters: Mapping[str, list[Letter]]  # by recipient
    struck: Mapping[str, list[dict[str, Any]]]  # injections, by recipient, or path and query of the image
    tasks: list[dict[str, Any]]  # open person's tasks
    balance_cents: int
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # (status, sha256) by link


class Collector:
    """Looks at everything, again and again; mails and files that were seen are not fetched a second time."""

    def __init__(self, memory: Memory, state_url: str) -> None:
        self._memory = memory
        self._shop = Shop(memory)
        self._tasks = ManualTasks(Database(state_url))  # what `smi tasks list` shows
        self._letters: dict[int, Letter] = {}
        self._files: dict[str, tuple[int, str]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="evidence")

    def listed(self, service: str, kind: str) -> list[dict[str, Any]]:
        """All records of one kind of a stand-in. Raises requests.RequestException."""
        reply = self._shop.http.get(f"{self._memory.url(service)}/_{kind}", timeout=_TIMEOUT_SECONDS)
        reply.raise_for_status()
        return reply.json()[kind]

    def mails(self) -> list[dict[str, Any]]:
        """Every mail that was taken. Raises requests.RequestException."""
        return self._shop.ledger("mail")["messages"]

    def mailed(self) -> set[str]:
        """Everybody who got a mail."""
        return {to for mail in self.mails() for to in mail["to"]}

    def injected(self) -> dict[str, Counter[str]]:
        """How often each fault struck, by stand-in."""
        return {
            name: Counter(label(each) for each in self.listed(name, "injections"))
            for name in ("upsampler", "stripe", "mail", "origin")
        }

    def collect(self, orders: Iterable[Order]) -> Seen:
        """The evidence as it is now. Raises requests.RequestException when a stand-in does not answer."""
        stripe = self._shop.ledger("stripe")
        struck: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for service in ("upsampler", "mail", "origin"):
            for injection in self.listed(service, "injections"):
                struck[injection["subject"].split(",")[0]].append({**injection, "service": service})
        letters = self._read_letters()
        seen = Seen(
            intents=_by(stripe["intents"], lambda intent: intent["metadata"].get("job_id")),
            all_intents=stripe["intents"],
            refunds=_by(stripe["refunds"], lambda refund: refund["payment_intent"]),
            disputes=_by(self.listed("stripe", "disputes"), lambda dispute: dispute["payment_intent"]),
            submissions=_by(self.listed("upsampler", "submissions"), lambda record: record["image_url"]),
            letters=letters,
            struck=struck,
            tasks=[asdict(task) for task in self._tasks.opened()],
            balance_cents=stripe["balance_cents"],
        )
        unmailed = {task["job_id"] for task in seen.tasks if task["kind"] == "mail_failed"}
        seen.files = self._read_files(letters, [order for order in orders if order.job_id in unmailed])
        return seen

    def _read_letters(self) -> dict[str, list[Letter]]:
        records = self.mails()

        def read(number: int) -> None:
            url = f"{self._memory.url('mail')}/messages/{number}.eml"
            content = self._shop.http.get(url, timeout=_TIMEOUT_SECONDS).content
            self._letters[number] = letter_of(content, records[number - 1])

        list(self._pool.map(read, [n for n in range(1, len(records) + 1) if n not in self._letters]))
        found: dict[str, list[Letter]] = defaultdict(list)
        for number in sorted(self._letters):
            letter = self._letters[number]
            for person in letter.to:
                found[person].append(letter)
        return found

    def _read_files(self, letters: Mapping[str, list[Letter]], unmailed: list[Order]) -> dict[str, tuple[int, str]]:
        """What lies behind every link that was mailed, and behind those on the pages of customers without mail (there
        by the customer's address)."""
        links = {link: link for each in letters.values() for letter in each for link in LINK.findall(letter.text)}
        for order in unmailed:
            download = (self._shop.status(order) or {}).get("download")
            if download:
                links[order.email] = download["url"]

        def read(item: tuple[str, str]) -> None:
            name, link = item
            reply = self._shop.http.get(link, timeout=_TIMEOUT_SECONDS)
            self._files[name] = (reply.status_code, hashlib.sha256(reply.content).hexdigest())

        list(self._pool.map(read, [item for item in links.items() if self._files.get(item[0], (0,))[0] != 200]))
        return dict(self._files)


def subject_of(order: Order) -> str:
    """How the stand-ins name an image in their injections."""
    parts = urlsplit(order.source_url)
    return f"{parts.path}?{parts.query}"


def _by(records: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        found[str(key(record))].append(record)
    return found


STAFF = frozenset({OWNER})
