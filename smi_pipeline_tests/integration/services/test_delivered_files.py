"""The file that a customer gets is the one that was cleaned, checked and hashed, whatever dies meanwhile."""

import hashlib

import pytest

from smi_pipeline.core.errors import PermanentError
from smi_pipeline_tests.integration.services.steps import Steps

RESULT = "https://cdn.example/result.png"


class Died(Exception):
    """The worker was killed here."""


def ready(shop: Steps) -> str:
    """A job whose result still has the place where its picture was taken."""
    job_id = shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.fetcher.bodies[RESULT] = b"PNG 400 320 GPS 52.5"
    shop.poll()
    return job_id


def assert_clean(shop: Steps, job_id: str) -> None:
    job = shop.job(job_id)
    assert job.status == "completed"
    stored = shop.storage.files[job.result_key or ""]
    assert stored == b"PNG 400 320"
    assert (job.result_sha256, job.result_bytes) == (hashlib.sha256(stored).hexdigest(), len(stored))
    assert not [key for key, content in shop.storage.files.items() if b"GPS" in content]


def test_hash_and_size_are_those_of_the_cleaned_file(shop: Steps) -> None:
    job_id = ready(shop)
    (report,) = shop.fulfil_due()
    assert_clean(shop, job_id)
    assert not isinstance(report, PermanentError)


@pytest.mark.parametrize("where", ["images.clean_result", "images.check_result", "storage.put", "storage.put answered"])
def test_a_worker_that_dies_anywhere_leaves_no_file_that_was_not_cleaned(shop: Steps, where: str) -> None:
    job_id = ready(shop)

    def die(moment: str) -> None:
        if moment == where:
            raise Died

    for part in (shop.images, shop.storage):
        part.watch = die
    with pytest.raises(Died):
        shop.fulfil_due()
    for part in (shop.images, shop.storage):
        part.watch = lambda moment: None
    assert not [key for key, content in shop.storage.files.items() if b"GPS" in content]
    shop.later(minutes=5)
    shop.fulfil_due()
    assert_clean(shop, job_id)


def test_a_result_that_cannot_be_cleaned_is_a_rejected_one(shop: Steps) -> None:
    job_id = ready(shop)

    def broken(path: object) -> list[str]:
        raise PermanentError("result_rejected", "the PNG is truncated")

    shop.images.clean_result = broken  # type: ignore[method-assign]
    shop.fulfil_due()
    assert (shop.job(job_id).queue, (shop.job(job_id).last_error or "").split(":")[0]) == ("submit", "result_rejected")
