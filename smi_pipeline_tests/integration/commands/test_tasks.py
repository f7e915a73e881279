"""`smi tasks …` over real PostgreSQL."""

from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.services.steps import Steps


def opened(shop: Steps) -> int:
    shop.state.manual_tasks.open(
        kind="refund_failed", subject="pi_1", job_id=None, message="The refund failed.", next_step="Pay by transfer."
    )
    (task,) = shop.state.manual_tasks.opened()
    return task.task_id


def test_a_person_sees_takes_on_and_settles_a_task(smi: Smi, shop: Steps) -> None:
    assert smi("tasks", "list").out == "no open tasks\n"
    number = opened(shop)
    assert "Pay by transfer." in smi("tasks", "list").out
    assert smi("tasks", "acknowledge", number).out == f"task {number} is yours\n"
    assert smi("tasks", "list", "--json").json["tasks"][0]["acknowledged_at"] is not None
    assert smi("tasks", "close", number, "--json").json == {"task_id": number, "done": f"task {number} is closed"}
    assert shop.state.manual_tasks.opened() == []


def test_a_task_that_is_not_open_is_one_line(smi: Smi, shop: Steps) -> None:
    for verb in ("acknowledge", "close"):
        ran = smi("tasks", verb, 4711)
        assert (ran.code, ran.out, ran.err) == (1, "", "smi: there is no open task 4711\n")


def test_an_acknowledged_task_takes_its_job_out_of_the_alarm(smi: Smi, shop: Steps) -> None:
    job_id = shop.paid()
    shop.later(hours=3)
    assert [row.job_id for row in shop.state.queries.alarms(shop.ctx.policy)] == [job_id]
    shop.state.manual_tasks.open(
        kind="overdue", subject=job_id, job_id=job_id, message="It is late.", next_step="Look."
    )
    smi("tasks", "acknowledge", shop.state.manual_tasks.opened()[0].task_id)
    assert shop.state.queries.alarms(shop.ctx.policy) == []
