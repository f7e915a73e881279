"""Fetch the evidence fast enough for thousands of jobs: by a pool of threads, and nothing twice."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests

from smi_pipeline.demo.environment import OWNER
from smi_pipeline.demo.evidence import read_mail
from smi_pipeline.demo.judge import LINK, ReceivedMail
from smi_pipeline.demo.orders import DemoState, Order
from smi_pipeline.demo.shop import Shop
from smi_pipeline.sandbox.upsampler.upscaling import pixels_sha256
from smi_pipeline.state.database import Database
from smi_pipeline.state.manual_tasks import ManualTasks
from smi_pipeline_tests.soak.faults import label

_THREADS = 12
_TIMEOUT_SECONDS = 60


@dataclass(kw_only=True)
class Seen:
    """The evidence as the verdict needs it. Every mapping returns an empty value for a missing key."""

    intents: Mapping[str, list[dict[str, Any]]]  # by job id
    all_intents: list[dict[str, Any]]
    refunds: Mapping[str, list[dict[str, Any]]]  # by payment intent
    disputes: Mapping[str, list[dict[str, Any]]]  # by payment intent
    submissions: Mapping[str, list[dict[str, Any]]]  # by image address
    mails: Mapping[str, list[ReceivedMail]]  # by recipient
    injections: Mapping[str, list[dict[str, Any]]]  # by recipient, or path and query of the image
    tasks: list[dict[str, Any]]  # open manual tasks
    balance_cents: int
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # (status, sha256) by link


class Collector:
    """Collects the evidence repeatedly; mails and files are fetched once."""

    def __init__(self, demo: DemoState, state_url: str) -> None:
        self._demo = demo
        self._shop = Shop(demo)
        self._tasks = ManualTasks(Database(state_url))  # what `smi tasks list` shows
        self._mails: dict[int, ReceivedMail] = {}
        self._files: dict[str, tuple[int, str]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="evidence")

    def listed(self, service: str, kind: str) -> list[dict[str, Any]]:
        """Return all records of a kind of a service. Raises requests.RequestException."""
        reply = self._shop.http.get(f"{self._demo.url(service)}/_{kind}", timeout=_TIMEOUT_SECONDS)
        reply.raise_for_status()
        return reply.json()[kind]

    def mails(self) -> list[dict[str, Any]]:
        """Return all accepted mails. Raises requests.RequestException."""
        return self._shop.ledger("mail")["messages"]

    def mailed(self) -> set[str]:
        """Return all addresses that received a mail."""
        return {to for mail in self.mails() for to in mail["to"]}

    def injected(self) -> dict[str, Counter[str]]:
        """Return how often each fault was injected, by service."""
        return {
            name: Counter(label(each) for each in self.listed(name, "injections"))
            for name in ("upsampler", "stripe", "mail", "origin")
        }

    def collect(self, orders: Iterable[Order]) -> Seen:
        """Return the evidence as it is now. Raises requests.RequestException when the sandbox does not respond."""
        stripe = self._shop.ledger("stripe")
        injections: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for service in ("upsampler", "mail", "origin"):
            for injection in self.listed(service, "injections"):
                injections[injection["subject"].split(",")[0]].append({**injection, "service": service})
        mails = self._read_mails()
        seen = Seen(
            intents=_by(stripe["intents"], lambda intent: intent["metadata"].get("job_id")),
            all_intents=stripe["intents"],
            refunds=_by(stripe["refunds"], lambda refund: refund["payment_intent"]),
            disputes=_by(self.listed("stripe", "disputes"), lambda dispute: dispute["payment_intent"]),
            submissions=_by(self.listed("upsampler", "submissions"), lambda record: record["image_url"]),
            mails=mails,
            injections=injections,
            tasks=[asdict(task) for task in self._tasks.opened()],
            balance_cents=stripe["balance_cents"],
        )
        unmailed = {task["job_id"] for task in seen.tasks if task["kind"] == "mail_failed"}
        seen.files = self._read_files(mails, [order for order in orders if order.job_id in unmailed])
        return seen

    def open_links(self) -> tuple[int, list[str]]:
        """Open every link of every mail. Return their number, and a line for each dead one."""
        mailed = {
            link: to for to, mails in self._read_mails().items() for mail in mails for link in links_of(mail.text)
        }
        good = list(self._pool.map(lambda link: opens(self._shop.http, link), mailed))
        dead = [link for link, works in zip(mailed, good, strict=True) if not works]
        return len(mailed), [f"{mailed[link]} was mailed a dead link: {link}" for link in dead]

    def _read_mails(self) -> dict[str, list[ReceivedMail]]:
        records = self.mails()

        def read(number: int) -> None:
            url = f"{self._demo.url('mail')}/messages/{number}.eml"
            content = self._shop.http.get(url, timeout=_TIMEOUT_SECONDS).content
            self._mails[number] = read_mail(content, records[number - 1])

        list(self._pool.map(read, [n for n in range(1, len(records) + 1) if n not in self._mails]))
        found: dict[str, list[ReceivedMail]] = defaultdict(list)
        for number in sorted(self._mails):
            mail = self._mails[number]
            for person in mail.to:
                found[person].append(mail)
        return found

    def _read_files(self, mails: Mapping[str, list[ReceivedMail]], unmailed: list[Order]) -> dict[str, tuple[int, str]]:
        """Return status and checksum behind every mailed link, and behind those on the pages of customers without mail
        (by the customer's address)."""
        links = {link: link for each in mails.values() for mail in each for link in LINK.findall(mail.text)}
        for order in unmailed:
            download = (self._shop.status(order) or {}).get("download")
            if download:
                links[order.email] = download["url"]

        def read(item: tuple[str, str]) -> None:
            name, link = item
            reply = self._shop.http.get(link, timeout=_TIMEOUT_SECONDS)
            self._files[name] = (reply.status_code, pixels_sha256(reply.content))

        list(self._pool.map(read, [item for item in links.items() if self._files.get(item[0], (0,))[0] != 200]))
        return dict(self._files)


_LINKS = re.compile(r"https?://[^\s\"<>]+/smi/v1/(?:download|jobs|rate|end-waiting)/[^\s\"<>]+")


def opens(http: requests.Session, link: str) -> bool:
    """Return whether a link of a mail shows its customer what it is for; a page without a good key shows less."""
    if "/smi/v1/jobs/" not in link:
        return http.head(link, timeout=_TIMEOUT_SECONDS).status_code == 200
    reply = http.get(link.replace("/smi/v1/jobs/", "/smi/v1/job-status/"), timeout=_TIMEOUT_SECONDS)
    return reply.status_code == 200 and "order" in reply.json()["data"]


def links_of(text: str) -> list[str]:
    """Return the links of a mail that lead to the shop, each once."""
    return list(dict.fromkeys(_LINKS.findall(text)))


def subject_of(order: Order) -> str:
    """How the sandbox names an image in their injections."""
    parts = urlsplit(order.source_url)
    return f"{parts.path}?{parts.query}"


def _by(records: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        found[str(key(record))].append(record)
    return found


STAFF = frozenset({OWNER})
