"""Any error about one object stays with it and is told once: the others go on."""

from contextlib import suppress

from smi_pipeline.core.errors import NotFound
from smi_pipeline.core.models import Stage, UpscaleReply
from smi_pipeline.services import refund
from smi_pipeline.services.alerts import raise_alarms, send_alerts
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.reconciliation.stored_files import compare_files
from smi_pipeline_tests.integration.services.steps import Steps


def submitted(shop: Steps, count: int) -> list[str]:
    jobs = [shop.paid() for _ in range(count)]
    shop.submit_due()
    return jobs


def test_one_status_call_that_breaks_ends_no_other_and_is_told_once(shop: Steps) -> None:
    odd, *others = submitted(shop, 6)
    for job_id in others:
        shop.upscaler.finish(shop.external_id(job_id))
    broken = UpscaleReply(external_id=shop.external_id(odd), stage=Stage.FAILED, error="no text: \0")
    shop.upscaler.replies[shop.external_id(odd)] = broken
    for _ in range(3):
        shop.poll()
    shop.fulfil_due()
    assert [str(shop.job(job_id).status) for job_id in others] == ["completed"] * 5
    (task,) = shop.state.manual_tasks.opened()
    assert (task.kind, task.job_id) == ("unexpected", odd)
    shop.later(minutes=1)
    assert check_completions(shop.ctx)["failed"] == 0, "it is asked for again more rarely"
    shop.upscaler.finish(shop.external_id(odd))
    shop.poll()
    shop.fulfil_due()
    assert shop.job(odd).status == "completed"
    assert shop.tasks() == []


def test_answers_that_break_for_every_order_are_a_fault_of_the_shop(shop: Steps) -> None:
    for job_id in submitted(shop, 4):
        broken = UpscaleReply(external_id=shop.external_id(job_id), stage=Stage.FAILED, error="\0")
        shop.upscaler.replies[shop.external_id(job_id)] = broken
    shop.poll()
    assert [one.name for one in shop.state.breakers.all() if one.is_open] == ["status"]


def test_a_broken_check_of_the_storage_keeps_back_no_alert(shop: Steps) -> None:
    shop.state.manual_tasks.open(kind="test", subject="1", job_id=None, message="thing.", next_step="look.")

    def shortage() -> str:
        raise RuntimeError("the disk is gone")

    shop.storage.shortage = shortage  # type: ignore[method-assign]
    raise_alarms(shop.ctx)
    assert sorted(shop.tasks()) == ["test", "unexpected"]
    assert send_alerts(shop.ctx, "owner@example.com", None) == 2


def test_a_task_that_no_mail_can_tell_keeps_back_no_alert(shop: Steps) -> None:
    shop.state.manual_tasks.open(kind="test", subject="1", job_id=None, message="one\nthing.", next_step="look.")
    rendered: list[str] = []
    render = shop.mailer.render

    def strict(kind, **arguments):  # as the real one
        assert "\n" not in arguments["context"]["subject"]
        rendered.append(kind)
        return render(kind, **arguments)

    shop.mailer.render = strict  # type: ignore[method-assign]
    assert send_alerts(shop.ctx, "owner@example.com", None) == 1
    assert rendered == ["alert"]


def test_an_alert_that_cannot_be_written_as_a_mail_goes_out_once_by_the_webhook(shop: Steps) -> None:
    shop.state.manual_tasks.open(kind="test", subject="1", job_id=None, message="thing.", next_step="look.")
    posted: list[str] = []
    for _ in range(2):
        send_alerts(shop.ctx, "owner\n@example.com", lambda subject, lines: posted.append(subject))
    assert posted == ["thing."]


def test_one_refund_that_is_refused_keeps_back_no_other_of_its_order(shop: Steps) -> None:
    job_id = shop.failed()
    second = shop.payments.pay(job_id, 500, currency="usd")
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": second}, job_id)
    rows = shop.state.refunds.of_job(job_id)
    assert len(rows) == 2
    call, refused = shop.payments.create_refund, rows[0].payment_intent_id

    def create_refund(**arguments):
        if arguments["payment_intent_id"] == refused:
            raise RuntimeError("odd")
        return call(**arguments)

    shop.payments.create_refund = create_refund  # type: ignore[method-assign]
    with suppress(RuntimeError):
        refund.refund_and_notify(shop.ctx, job_id)
    assert [str(row.state) for row in shop.state.refunds.of_job(job_id)] == ["owed", "succeeded"]


def test_a_file_that_cannot_be_read_ends_no_comparison(shop: Steps) -> None:
    jobs = [shop.delivered() for _ in range(3)]
    odd = shop.job(jobs[0]).result_key

    def size(key: str) -> int:
        raise RuntimeError("odd") if key == odd else NotFound(key)

    shop.storage.size = size  # type: ignore[method-assign]
    shop.storage.files.clear()
    compare_files(shop.ctx)
    assert sorted(shop.tasks()) == ["file_missing", "file_missing", "unexpected"]
