"""`SMI_SECRET_KEY` is replaced while orders are under way, and links are revoked: no mail carries a dead link."""

import re
from dataclasses import replace

import pytest

from smi_pipeline.core.errors import AmbiguousError, TransientError
from smi_pipeline.core.lifecycle import callback_token
from smi_pipeline.services import admin
from smi_pipeline.services.completions import take_hint
from smi_pipeline.state import State
from smi_pipeline_tests.integration.services.service_context import SECRET_KEY
from smi_pipeline_tests.integration.services.steps import Steps

NEW_KEY = "n" * 32


def restart_with(shop: Steps, *keys: str) -> None:
    """The processes are started again with these keys, the newest first."""
    state = State(shop.database, secret_keys=keys, mail_domain="shop.example")
    shop.ctx = replace(shop.ctx, state=state, secret_keys=keys)
    shop.state = state


def opened(shop: Steps, link: str) -> str:
    """What a download link answers."""
    file = shop.state.deliveries.find_download(link.rpartition("/")[2])
    return "unknown" if file is None else "revoked" if file.revoked else "expired" if file.expired else "file"


def mailed_links(shop: Steps) -> list[str]:
    """The download links of all mails that the server took, in their order."""
    return [
        link for mail in shop.mailer.taken for link in re.findall(r"http\S+/download/[0-9a-f]{64}", str(mail.content))
    ]


def test_a_link_of_an_old_key_lives_until_it_expires(shop: Steps, job_id: str) -> None:
    shop.mail_due()
    (link,) = mailed_links(shop)
    restart_with(shop, NEW_KEY, SECRET_KEY)
    assert opened(shop, link) == "file"
    shop.later(hours=25)
    assert opened(shop, link) == "expired"


def test_a_link_whose_key_was_removed_is_dead_although_its_hash_is_stored(shop: Steps, job_id: str) -> None:
    shop.mail_due()
    (link,) = mailed_links(shop)
    restart_with(shop, NEW_KEY)
    assert opened(shop, link) == "revoked"
    assert shop.state.deliveries.current_token(job_id) is None


@pytest.mark.parametrize("keys", [(NEW_KEY, SECRET_KEY), (NEW_KEY,)], ids=["old kept", "old removed"])
def test_a_mail_that_is_owed_while_the_key_changes_carries_a_link_of_the_new_key(
    shop: Steps, job_id: str, keys: tuple[str, ...]
) -> None:
    restart_with(shop, *keys)
    shop.mail_due()
    (link,) = mailed_links(shop)
    assert opened(shop, link) == "file"
    restart_with(shop, NEW_KEY)
    assert opened(shop, link) == "file", "the old key is not needed for it any more"


def test_a_mail_that_was_written_before_the_old_key_was_removed_is_written_anew(shop: Steps, job_id: str) -> None:
    shop.mailer.faults.append(TransientError("451 later"))
    shop.mail_due()
    restart_with(shop, NEW_KEY)
    shop.later(minutes=2)
    shop.mail_due()
    (link,) = mailed_links(shop)
    assert opened(shop, link) == "file"
    assert len({mail.message_id for mail in shop.mailer.taken}) == 1


def test_a_mail_that_the_server_may_have_keeps_its_bytes_while_its_key_is_kept(shop: Steps, job_id: str) -> None:
    shop.mailer.after_effect.append(AmbiguousError("no answer"))
    shop.mail_due()
    restart_with(shop, NEW_KEY, SECRET_KEY)
    shop.later(minutes=20)
    shop.mail_due()
    assert len(shop.mailer.taken) == 2
    assert len({(mail.message_id, mail.content) for mail in shop.mailer.taken}) == 1
    assert [opened(shop, link) for link in mailed_links(shop)] == ["file"] * 2


def test_a_mail_that_is_sent_after_its_link_has_expired_gets_a_fresh_one(shop: Steps, job_id: str) -> None:
    shop.mailer.faults.append(TransientError("no connection", counts=False))
    shop.mail_due()
    shop.later(hours=25)
    shop.mail_due()
    (link,) = mailed_links(shop)
    assert opened(shop, link) == "file"


def test_an_upsampler_webhook_of_an_old_key_still_finds_its_submission(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    (submission,) = shop.state.submissions.of_job(job_id)
    restart_with(shop, NEW_KEY, SECRET_KEY)
    shop.upscaler.finish(shop.external_id(job_id))
    take_hint(shop.ctx, callback_token(SECRET_KEY, submission.submission_id), shop.external_id(job_id).encode())
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_revoking_the_links_of_an_order_ends_them_all_and_returns_the_new_page(shop: Steps, job_id: str) -> None:
    shop.mail_due()
    (link,) = mailed_links(shop)
    before = shop.mailer.contexts[-1]
    page = admin.revoke_links(shop.ctx, job_id)
    assert page.startswith(f"{shop.policy.public_url}/smi/v1/jobs/{job_id}?view=")
    assert page != before["status_url"]
    assert opened(shop, link) == "revoked"
    assert "accepted" in admin.resend(shop.ctx, job_id)
    after = shop.mailer.contexts[-1]
    assert after["status_url"] == page
    assert after["rating_urls"][5] != before["rating_urls"][5]
    assert opened(shop, after["download_url"]) == "file"


def test_a_mail_that_is_owed_while_links_are_revoked_carries_the_new_ones(shop: Steps, job_id: str) -> None:
    shop.mailer.faults.append(TransientError("451 later"))
    shop.mail_due()
    page = admin.revoke_links(shop.ctx, job_id)
    shop.later(minutes=2)
    shop.mail_due()
    (link,) = mailed_links(shop)
    assert opened(shop, link) == "file"
    assert page in str(shop.mailer.taken[-1].content)


def test_in_dagster_the_new_links_are_mailed_and_not_logged(shop: Steps, job_id: str) -> None:
    shop.mail_due()
    assert "revoked; completion mail 2" in admin.new_links_by_mail(shop.ctx, job_id)
    assert [opened(shop, link) for link in mailed_links(shop)] == ["revoked", "file"]
    waiting = shop.paid()
    assert "no closing mail" in admin.new_links_by_mail(shop.ctx, waiting)
