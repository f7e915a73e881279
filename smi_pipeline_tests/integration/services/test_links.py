"""W12 and W24: links and the files behind them."""

import pytest

from smi_pipeline.core.errors import Conflict
from smi_pipeline.core.lifecycle import token_hash
from smi_pipeline.services import admin
from smi_pipeline.services.reconciliation import stored_files
from smi_pipeline_tests.integration.services.steps import Steps


def test_a_retry_after_the_files_were_removed_fetches_the_source_again_and_delivers(shop: Steps) -> None:
    job_id = shop.delivered()
    shop.later(hours=50)
    assert stored_files.remove_expired_files(shop.ctx) == 1
    assert shop.storage.files == {}
    with pytest.raises(Conflict, match="no file"):
        admin.new_token(shop.ctx, job_id)
    admin.retry(shop.ctx, job_id, admin_override=True)
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"
    token = shop.state.deliveries.current_token(job_id)
    assert token is not None
    found = shop.state.deliveries.find_download(token.token)
    assert found is not None and found.files_removed_at is None
    shop.mail_due()  # until its mail was accepted a file is kept
    shop.later(hours=50)
    assert stored_files.remove_expired_files(shop.ctx) == 1
    assert shop.storage.files == {}


def test_files_of_every_round_are_removed_and_files_of_live_links_are_kept(shop: Steps) -> None:
    job_id = shop.delivered()
    admin.retry(shop.ctx, job_id, admin_override=True)
    shop.submit_due()
    shop.upscaler.fail(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    assert stored_files.remove_expired_files(shop.ctx) == 0
    shop.later(hours=50)
    assert stored_files.remove_expired_files(shop.ctx) == 1
    assert shop.storage.files == {}


def test_a_new_token_ends_the_older_ones(shop: Steps) -> None:
    job_id = shop.delivered()
    old = shop.state.deliveries.current_token(job_id)
    assert old is not None
    url = admin.new_token(shop.ctx, job_id)
    assert url.startswith(f"{shop.policy.public_url}/smi/v1/download/")
    found = shop.state.deliveries.find_download(old.token)
    assert found is not None and found.revoked
    fresh = url.rsplit("/", 1)[1]
    assert len(fresh) == 64
    found = shop.state.deliveries.find_download(fresh)
    assert found is not None and not found.revoked and not found.expired
    stored = {row["token_hash"] for row in shop.sql("SELECT token_hash FROM smi.download_tokens")}
    assert stored == {token_hash(fresh), token_hash(old.token)}, "only hashes are stored"
    kept = admin.new_token(shop.ctx, job_id, keep_others=True)
    assert kept != url
    found = shop.state.deliveries.find_download(fresh)
    assert found is not None and not found.revoked
    with pytest.raises(Conflict):
        admin.new_token(shop.ctx, shop.paid())


def test_a_job_that_is_taken_up_while_others_are_cleaned_keeps_its_files(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted([shop.delivered(), shop.delivered()])
    shop.later(hours=50)
    delete = shop.storage.delete

    def slow(key: str) -> None:
        """While the files of the first are deleted, an admin takes the second up, and its source is kept again."""
        if shop.job(second).status == "completed":
            admin.retry(shop.ctx, second, admin_override=True)
            shop.submit_due()
        delete(key)

    monkeypatch.setattr(shop.storage, "delete", slow)
    assert stored_files.remove_expired_files(shop.ctx) == 1
    job = shop.job(second)
    assert job.source_key in shop.storage.files
    assert not any(first in key for key in shop.storage.files)
