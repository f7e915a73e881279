"""From a paid job to the file or the refund, through the real Dagster jobs, judged by the sandbox's ledgers."""

import hashlib
from types import SimpleNamespace

import pytest
from dagster import DagsterEventType

from smi_pipeline.core.models import Queue, Status
from smi_pipeline.core.policy import Policy
from smi_pipeline.fulfilment import ops
from smi_pipeline.fulfilment.jobs import fulfil_upscales, submit_upscales
from smi_pipeline.services import fulfil, submit
from smi_pipeline.state.leases import Leases
from smi_pipeline_tests.orchestration.conftest import Shop
from smi_pipeline_tests.stored_keys import stored_keys


def mails(shop: Shop) -> list[str]:
    return [message["subject"] for message in shop.sandbox.ledger("mail")["messages"]]


@pytest.mark.parametrize("photo", ["coffee-200.png", "rocket-200.jpg", "chelsea-200.webp"])
@pytest.mark.parametrize("resolution", ["4x", "8x"])
def test_a_paid_job_is_submitted_once_delivered_and_mailed(shop: Shop, photo: str, resolution: str):
    job_id = shop.order(photo, resolution)
    (submitted,) = shop.run(Queue.SUBMIT)
    assert submitted.success
    shop.until_ready(job_id)
    (fulfilled,) = shop.run(Queue.FULFIL)
    assert fulfilled.success
    job = shop.job(job_id)
    assert job.status is Status.COMPLETED
    assert (job.result_width, job.result_height) == job.output_size
    assert [s["status"] for s in shop.sandbox.ledger("upsampler")["submissions"]] == ["completed"]
    assert len(mails(shop)) == 1
    assert shop.sandbox.ledger("stripe")["refunds"] == []
    (batch,) = [event for event in fulfilled.all_events if event.event_type == DagsterEventType.ASSET_MATERIALIZATION]
    assert batch.asset_key is not None and batch.asset_key.to_user_string() == "deliveries"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "fail"}, "upscale_failed"),
        ({"kind": "wrong_dimensions"}, "result_rejected"),
        ({"kind": "truncated"}, "result_rejected"),
        ({"kind": "black_tile"}, "result_rejected"),
        ({"kind": "bit_flip"}, "result_rejected"),
        ({"kind": "wrong_image"}, "result_rejected"),
        ({"kind": "reject", "message": "Unsupported image format"}, "rejected_by_api"),
    ],
)
def test_a_failed_upscale_fails_its_step_and_is_refunded_by_the_hook(shop: Shop, fault: dict, reason: str):
    shop.sandbox.fault("upsampler", **fault)
    job_id = shop.order("rocket-400.jpg")
    submitted = shop.run(Queue.SUBMIT)
    results = submitted
    if submitted[0].success:
        shop.until_ready(job_id)
        results = shop.run(Queue.FULFIL)
    (result,) = results
    assert not result.success
    job = shop.job(job_id)
    assert (job.status, job.reason_code) == (Status.REFUNDED, reason)
    (refund,) = shop.sandbox.ledger("stripe")["refunds"]
    assert (refund["amount"], refund["status"]) == (job.price_cents, "succeeded")
    assert len(mails(shop)) == 1
    assert shop.tick(Queue.REFUND) == []
    assert shop.tick(Queue.MAIL) == []


@pytest.mark.parametrize("photo", ["coffee-200.png", "rocket-200.jpg", "chelsea-200.webp"])
def test_place_names_and_what_is_behind_the_end_of_a_result_are_not_delivered(shop: Shop, photo: str):
    shop.sandbox.fault("upsampler", "leaves_metadata", name="Jane Doe")
    job_id = shop.order(photo)
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    job = shop.job(job_id)
    assert job.status is Status.COMPLETED
    with shop.ctx.storage.open(job.result_key or "") as file:
        delivered = file.read()
    assert [word for word in (b"Jane Doe", b"SN-4711", b"SEFT") if word in delivered] == []
    assert b"(c) Studio" in delivered
    assert (hashlib.sha256(delivered).hexdigest(), len(delivered)) == (job.result_sha256, job.result_bytes)


@pytest.mark.parametrize("service", [submit.prepare, fulfil.verify_result])
def test_a_lease_is_renewed_for_as_long_as_a_download_may_take(service):
    given = []

    def step(seconds: float) -> str:
        given.append(seconds)
        return "another run's"

    ctx = SimpleNamespace(policy=Policy(), state=SimpleNamespace(queries=SimpleNamespace(job=lambda job_id: None)))
    smi, batch = SimpleNamespace(ctx=lambda actor: ctx), SimpleNamespace(step=step)
    ops._step_on_job(SimpleNamespace(run_id="r"), smi, batch, "j", 60, service)  # type: ignore[arg-type]
    assert given == [60 + 600]
    for job in (submit_upscales, fulfil_upscales):
        assert int(job.tags["dagster/max_runtime"]) > given[0] + 180


def test_a_failing_job_does_not_stop_the_others_of_its_batch(shop: Shop):
    bad = shop.order("coffee-200.png")
    good = shop.order("rocket-200.jpg")
    shop.sandbox.fault("upsampler", "fail", match={"job_id": bad})
    shop.run(Queue.SUBMIT)
    shop.until_ready(bad)
    shop.until_ready(good)
    (result,) = shop.run(Queue.FULFIL)
    assert not result.success
    assert shop.job(bad).status is Status.REFUNDED
    assert shop.job(good).status is Status.COMPLETED


@pytest.mark.parametrize(
    ("photo", "content"),
    [
        ("coffee-200.png", "gif"),
        ("coffee-200.png", "other_photo"),
        ("astronaut-200.jpg", "other_photo"),
        ("chelsea-200.webp", "other_photo"),
    ],
)
def test_a_source_swapped_for_another_format_or_picture_is_refunded_without_submission(
    shop: Shop, photo: str, content: str
):
    job_id = shop.order(photo)
    shop.sandbox.fault("origin", "swap", match={"path": photo}, content=content, times=None)
    (result,) = shop.run(Queue.SUBMIT)
    assert result.success, "it may be replaced just now"
    shop.shift_clock(seconds=40)
    (result,) = shop.run(Queue.SUBMIT)
    assert not result.success
    assert (shop.job(job_id).status, shop.job(job_id).reason_code) == (Status.REFUNDED, "source_changed")
    assert shop.sandbox.ledger("upsampler")["submissions"] == []


@pytest.mark.parametrize("photo", ["coffee-200.png", "rocket-200.jpg", "chelsea-200.webp"])
def test_a_source_that_its_host_codes_anew_at_each_request_is_delivered(shop: Shop, photo: str):
    shop.sandbox.fault("origin", "recompresses", match={"path": photo})
    job_id = shop.order(photo)
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    assert shop.job(job_id).status is Status.COMPLETED


def test_a_connection_that_breaks_costs_no_job_its_upscale(shop: Shop):
    job_id = shop.order()
    shop.sandbox.fault("upsampler", "status", match={"endpoint": "submit"}, code=503)
    (result,) = shop.run(Queue.SUBMIT)
    assert result.success, "a transient error ends its step green"
    assert shop.job(job_id).status is Status.PROCESSING
    shop.shift_clock(seconds=60)
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    assert shop.job(job_id).status is Status.COMPLETED
    assert shop.sandbox.ledger("stripe")["refunds"] == []


def test_a_refund_that_stripe_did_not_take_in_the_hook_is_made_by_the_sensor(shop: Shop):
    shop.sandbox.fault("upsampler", "fail")
    job_id = shop.order()
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.sandbox.fault("stripe", "status", match={"path": "/v1/refunds"}, code=503, times=12)
    shop.run(Queue.FULFIL)
    assert shop.job(job_id).status is Status.FAILED
    shop.sandbox.clear_faults("stripe")
    shop.shift_clock(minutes=20)
    (result,) = shop.run(Queue.REFUND)
    assert result.success
    assert shop.job(job_id).status is Status.REFUNDED
    assert len(shop.sandbox.ledger("stripe")["refunds"]) == 1
    assert len(mails(shop)) == 1


def test_a_mail_refused_with_451_is_sent_by_the_sensor_and_the_delivery_stands(shop: Shop):
    shop.sandbox.fault("mail", "code", code=451, times=1)
    job_id = shop.order()
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    assert shop.job(job_id).status is Status.COMPLETED
    assert mails(shop) == []
    shop.shift_clock(seconds=30)
    (result,) = shop.run(Queue.MAIL)
    assert result.success
    assert len(mails(shop)) == 1


def test_a_job_that_never_finishes_is_refunded_at_its_deadline(shop: Shop):
    shop.sandbox.fault("upsampler", "never_finishes")
    job_id = shop.order()
    shop.run(Queue.SUBMIT)
    shop.shift_clock(seconds=901)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    assert (shop.job(job_id).status, shop.job(job_id).reason_code) == (Status.REFUNDED, "timed_out")


def test_a_run_started_twice_for_one_lease_has_one_effect(shop: Shop):
    shop.order()
    (request,) = shop.tick(Queue.SUBMIT)
    job = shop.defs.resolve_job_def("submit_upscales")
    for _ in range(2):
        assert job.execute_in_process(run_config=request.run_config, instance=shop.instance).success
    assert len(shop.sandbox.ledger("upsampler")["submissions"]) == 1


def test_a_backlog_makes_no_pile_of_runs(shop: Shop):
    for _ in range(6):
        shop.order("coffee-200.png")
    assert sum(int(request.tags["smi/leased"]) for request in shop.tick(Queue.SUBMIT)) == 6
    assert shop.tick(Queue.SUBMIT) == [], "what is leased is not leased again"


def test_a_lease_is_renewed_while_a_step_takes_long(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smi_pipeline.services.lease_renewal.RENEW_SECONDS", 0.05)
    shop.sandbox.fault("upsampler", "latency", match={"endpoint": "submit"}, seconds=1.0)
    job_id = shop.order()
    renewed: list[int] = []
    renew = Leases.renew

    def counted(leases: Leases, lease_id: str) -> int:
        renewed.append(renew(leases, lease_id))
        return renewed[-1]

    monkeypatch.setattr(Leases, "renew", counted)
    for _ in range(2):  # the second run in this process renews as well
        shop.run(Queue.SUBMIT)
        job_id = shop.order()
        shop.sandbox.fault("upsampler", "latency", match={"endpoint": "submit"}, seconds=1.0)
    assert sum(count == 1 for count in renewed) >= 20
    assert shop.job(job_id).status is Status.PENDING


def test_a_stripe_event_that_cannot_be_applied_keeps_no_other_waiting(shop: Shop):
    shop.sandbox.control(
        "stripe", "/_pay", amount=50, currency="usd", metadata={"job_id": "x" * 32, "source": "sell-my-images"}
    )
    shop.sandbox.fault("stripe", "status", match={"endpoint": "payment_intents"}, code=404, times=3)
    job_id = shop.order(pay=False)
    shop.pay(job_id)
    shop.sandbox.clear_faults("stripe")
    assert any(task.kind == "stripe_event" for task in shop.ctx.state.manual_tasks.opened())


def test_the_clean_up_closes_compares_removes_and_prunes(shop: Shop):
    unpaid, delivered = shop.order(pay=False), shop.order()
    shop.run(Queue.SUBMIT)
    shop.until_ready(delivered)
    shop.run(Queue.FULFIL)
    assert len(stored_keys(shop.ctx.storage)) == 2
    shop.sandbox.configure("stripe", clock_offset=3 * 86_400)
    shop.shift_clock(days=3)
    result = shop.defs.resolve_job_def("clean_up").execute_in_process(instance=shop.instance)
    assert result.success
    assert shop.job(unpaid).status is Status.ABANDONED
    assert stored_keys(shop.ctx.storage) == []
    assert shop.job(delivered).status is Status.COMPLETED


def test_an_admin_refunds_a_delivered_job_from_the_launchpad_as_goodwill(shop: Shop):
    job_id = shop.order()
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    job = shop.defs.resolve_job_def("admin_refund")
    config = {"ops": {"admin_refund_action": {"config": {"job_id": job_id}}}}
    assert job.execute_in_process(run_config=config, instance=shop.instance).success
    assert [r["amount"] for r in shop.sandbox.ledger("stripe")["refunds"]] == [shop.job(job_id).price_cents]
    again = job.execute_in_process(run_config=config, instance=shop.instance, raise_on_error=False)
    assert not again.success
    assert len(shop.sandbox.ledger("stripe")["refunds"]) == 1
    assert shop.job(job_id).status is Status.COMPLETED
    assert len(mails(shop)) == 2
