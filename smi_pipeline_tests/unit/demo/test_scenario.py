"""The cases: all that were promised, with faults that the sandbox knows and that hit only their order."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.demo import orders, scenario
from smi_pipeline.demo.shop import Shop
from smi_pipeline.sandbox import photos
from smi_pipeline.sandbox.faults import FaultRegistry
from smi_pipeline.sandbox.ledger import Ledger
from smi_pipeline.sandbox.mail.service import Mail
from smi_pipeline.sandbox.origin import Origin
from smi_pipeline.sandbox.stripe.service import Stripe
from smi_pipeline.sandbox.upsampler.service import Upsampler

PROMISED = {
    "good-4x": "delivered",
    "good-8x": "delivered",
    "source-swapped": "refunded",
    "upscale-fails": "refunded",
    "never-finishes": "refunded",
    "black-tile": "delivered",
    "lost-upsampler-webhook": "delivered",
    "lost-stripe-webhook": "delivered",
    "webhook-three-times": "delivered",
    "api-429": "delivered",
    "mail-451": "delivered",
    "no-credits": "delivered",
}
SERVICES = {service.name: service for service in (Mail, Origin, Stripe, Upsampler)}


@pytest.mark.parametrize("jobs", [scenario.MINIMUM_JOBS, 24, 100])
def test_every_promised_case_is_there(jobs: int) -> None:
    chosen = scenario.cases(jobs)
    assert len(chosen) == jobs
    assert {case.name: case.expected for case in chosen} == PROMISED
    counts = Counter(case.name for case in chosen)
    assert all(counts[case.name] == 1 for case in scenario.SPECIAL)


def test_the_default_is_24_jobs_in_all_formats_and_several_sizes() -> None:
    chosen = scenario.cases(24)
    assert len(chosen) == 24
    good = [case.photo for case in chosen if case.name.startswith("good")]
    assert {photo.rpartition(".")[2] for photo in good} == {"png", "jpg", "webp"}
    assert len({photo.rpartition("-")[2].partition(".")[0] for photo in good}) >= 4


def test_too_few_jobs_for_all_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 12 jobs"):
        scenario.cases(10)


@pytest.mark.parametrize("photo", sorted({case.photo for case in (*scenario.GOOD, *scenario.SPECIAL)}))
def test_every_photograph_exists(photo: str, tmp_path: Path) -> None:
    assert photos.make(photo, tmp_path) is not None


def test_no_other_order_has_the_path_that_is_swapped() -> None:
    paths = [case.photo for case in scenario.cases(100)]
    swapped = next(case for case in scenario.SPECIAL if case.name == "source-swapped")
    assert paths.count(swapped.photo) == 1


def test_refund_mails_must_give_a_reason() -> None:
    assert all(bool(case.mail_says) == (case.expected == "refunded") for case in scenario.SPECIAL)


def test_no_order_can_be_taken_for_another(tmp_path: Path) -> None:
    demo = orders.load_or_create(tmp_path, 200)
    for texts in ([o.source_url for o in demo.orders], [o.email for o in demo.orders]):
        assert len(set(texts)) == len(texts)
        assert not any(one in other for one in texts for other in texts if one != other)


def test_the_sandbox_knows_every_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = orders.load_or_create(tmp_path, 24)
    books = {
        name: FaultRegistry(Ledger(tmp_path / f"{name}.sqlite"), service.kinds) for name, service in SERVICES.items()
    }
    by_port = {demo.url(name): name for name in SERVICES}

    class Created:
        status_code = 201

    def plant(self: Shop, url: str, *, json: dict[str, Any]) -> Created:
        books[by_port[url.removesuffix("/_faults")]].add(json)
        return Created()

    monkeypatch.setattr(Shop, "_post", plant)
    shop = Shop(demo)
    planted = 0
    for order in demo.orders:
        order.job_id = f"{order.number:032x}"
        for fault in order.case.faults:
            shop._add_fault(fault, order)
            planted += 1
    assert planted == sum(len(book.report()["faults"]) for book in books.values()) == 11
