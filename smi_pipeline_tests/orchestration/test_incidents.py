"""Which failed runs become manual tasks: those that nothing else tells of."""

import pytest
from dagster import ExecuteInProcessResult, build_run_status_sensor_context

from smi_pipeline.core.models import Queue
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.fulfilment import resources
from smi_pipeline.fulfilment.alerts import incidents
from smi_pipeline_tests.orchestration.conftest import Shop


def told(shop: Shop, result: ExecuteInProcessResult) -> list[str]:
    """What the sensor says of a failed run: the messages of open tasks about runs."""
    context = build_run_status_sensor_context(
        sensor_name="incidents",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=shop.instance,
        dagster_run=result.dagster_run,
        resources={"smi": resources.SmiResource()},
    ).for_run_failure()
    incidents(context)
    return [task.message for task in shop.ctx.state.manual_tasks.opened() if task.kind == ManualTaskKind.RUN_FAILED]


def clean_up(shop: Shop) -> ExecuteInProcessResult:
    return shop.defs.resolve_job_def("clean_up").execute_in_process(instance=shop.instance, raise_on_error=False)


def delivered(shop: Shop) -> str:
    job_id = shop.order()
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    return job_id


def test_a_mail_that_is_refused_for_good_has_its_own_task_and_is_no_incident(shop: Shop):
    shop.sandbox.fault("mail", "code", code=451, times=1)
    delivered(shop)
    shop.sandbox.fault("mail", "code", code=550)
    shop.shift_clock(seconds=30)
    (result,) = shop.run(Queue.MAIL)
    assert not result.success
    assert told(shop, result) == []
    assert [task.kind for task in shop.ctx.state.manual_tasks.opened()] == [ManualTaskKind.MAIL_FAILED]


def test_an_order_that_ended_with_a_refund_is_no_incident(shop: Shop):
    shop.sandbox.fault("upsampler", "reject", message="Unsupported image format")
    shop.order()
    (result,) = shop.run(Queue.SUBMIT)
    assert not result.success
    assert told(shop, result) == []


def test_a_form_that_is_refused_is_the_operators_answer_and_no_incident(shop: Shop):
    result = shop.defs.resolve_job_def("admin_refund").execute_in_process(
        run_config={"ops": {"admin_refund_action": {"config": {"job_id": "0" * 32}}}},
        instance=shop.instance,
        raise_on_error=False,
    )
    assert not result.success
    assert told(shop, result) == []


def test_an_error_that_nobody_has_thought_of_is_an_incident_with_its_cause(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smi_pipeline.services.intake.close_abandoned", lambda *_: 1 / 0)
    result = clean_up(shop)
    assert not result.success
    (message,) = told(shop, result)
    assert message.endswith("failed: step close_abandoned_checkouts: ZeroDivisionError: division by zero")


@pytest.mark.parametrize("code", [429, 503])
def test_a_comparison_that_stripe_does_not_answer_goes_on_with_the_next_run(shop: Shop, code: int):
    job_id = delivered(shop)
    shop.sandbox.fault("stripe", "status", code=code, times=None)
    result = clean_up(shop)
    assert result.success
    shop.sandbox.clear_faults("stripe")
    assert clean_up(shop).success
    compared = shop.ctx.state.reconciliation.standing()["payments"]
    assert (compared.compared, shop.job(job_id).price_cents > 0) == (1, True)
