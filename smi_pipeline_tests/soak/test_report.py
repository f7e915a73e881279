"""What a soak says of the webhooks' times."""

from itertools import count
from typing import Any

from smi_pipeline_tests.soak.report import webhook_figures

numbers = count(1)


def sent(at: float, seconds: float, status: int | str = 200, **more: Any) -> dict[str, Any]:
    return {"at": at, "seconds": seconds, "status": status, "id": f"evt_{next(numbers)}", **more}


def test_percentiles_are_of_all_webhooks_that_were_sent_and_by_sender() -> None:
    stripe = [sent(number / 10, 0.001 * number) for number in range(100)]
    figures = webhook_figures({"stripe": [*stripe, sent(4.0, 0.0, "lost")], "upsampler": [sent(5.0, 0.5, 503)]})
    assert (figures["p50_ms"], figures["p99_ms"], figures["max_ms"]) == (50, 99, 500)
    assert (figures["p99_ms_stripe"], figures["p99_ms_upsampler"]) == (99, 500)
    assert (figures["sent"], figures["answered_200"], figures["answered_503"]) == (101, 100, 1)


def test_how_long_an_event_took_the_first_time_is_told_without_its_repetitions() -> None:
    told = [sent(1.0, 0.9, 503, id="evt"), sent(2.0, 0.3, id="evt")]
    again = [sent(3.0 + number, 0.01, id="evt") for number in range(500)]
    figures = webhook_figures({"stripe": [*again, *told]})
    assert (figures["p99_ms"], figures["p99_ms_first"]) == (10, 300)


def test_a_late_retry_does_not_lower_the_pace() -> None:
    steady = [sent(number / 20, 0.01) for number in range(400)]
    assert webhook_figures({"stripe": [*steady, sent(900.0, 0.01)]})["per_second"] == 20


def test_where_no_webhook_was_sent_there_are_no_times() -> None:
    assert webhook_figures({"stripe": [sent(1.0, 0.0, "lost")]}) == {"sent": 0}
