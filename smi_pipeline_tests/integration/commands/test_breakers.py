"""`smi breakers …`, and the other ways to the same actions."""

import pytest

from smi_pipeline.core import faults
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.services.steps import Steps


def fault(shop: Steps, name: str = faults.SUBMISSIONS, scope: Scope = Scope.SHOP) -> None:
    shop.state.breakers.note(Failure(breaker=name, work_key="x", message="402: no credits", scope=scope))


def test_a_person_sees_which_breaker_is_open_what_waits_and_what_to_do(smi: Smi, shop: Steps) -> None:
    assert smi("breakers", "list").out == "no breaker is open, and nothing fails\n"
    shop.paid()
    fault(shop)
    fault(shop, faults.MAIL, Scope.UNKNOWN)
    listed = smi("breakers", "list", "--json").json["breakers"]
    assert [(row["breaker"]["name"], row["waiting"]) for row in listed] == [("submissions", 1), ("mail", 0)]
    shown = smi("breakers", "list").out
    for words in ("402: no credits", "UPSAMPLER_API_KEY", "1 order", "closed"):
        assert words in shown, words


def test_a_person_opens_a_breaker_and_closes_it_again(smi: Smi, shop: Steps) -> None:
    job_id = shop.paid()
    ran = smi("breakers", "open", "submissions", "the account is moved")
    assert ran.out == "breaker submissions is open until it is closed by hand\n"
    assert shop.submit_due() == []
    shop.later(minutes=5)
    assert shop.submit_due() == [], "what was opened by hand is not probed"
    assert smi("breakers", "close", "submissions", "it is moved").code == 0
    shop.submit_due()
    assert shop.external_id(job_id)


def test_a_breaker_of_an_image_host_can_be_opened(smi: Smi, shop: Steps) -> None:
    shop.paid()
    assert smi("breakers", "open", "source:Images.example", "the host is moved").code == 0
    assert smi("breakers", "list", "--json").json["breakers"][0]["waiting"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("open", "nonsense", "why"),
            "there is no breaker 'nonsense'; known are submissions, status, results, stripe,",
        ),
        (("open", "source:", "why"), "there is no breaker"),
        (("open", "source:a/../b", "why"), "there is no breaker"),
        (("open", "mail", " "), "give a reason"),
        (("close", "mail", ""), "give a reason"),
        (("close", "mail", "why"), "breaker mail is not open"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    smi: Smi, shop: Steps, arguments: tuple[str, ...], words: str
) -> None:
    ran = smi("breakers", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.err
    assert shop.state.breakers.all() == []
