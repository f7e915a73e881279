"""What failed twice for the same property of the image is not sold again."""

import pytest

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import NotFound, RefusedError
from smi_pipeline.core.models import Verdict
from smi_pipeline.services import admin
from smi_pipeline_tests.integration.services.steps import Steps

WRONG_SIZE = "the result is 200 x 160 pixels, not 400 x 320 (4x of the source)"
SIZE = "size-4x-2"


def checked(shop: Steps, verdict: Verdict | None) -> None:
    """An order whose result is checked with this verdict; None: it is good."""
    job_id = shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.images.verdict = verdict
    shop.poll()
    shop.fulfil_due()
    shop.later(seconds=15)


def capped(shop: Steps) -> None:
    checked(shop, Verdict(ok=False, facts=None, reason=reasons.RESULT_REJECTED, message=WRONG_SIZE))


def unsold(shop: Steps) -> list[str]:
    return [found.property for found in shop.state.unsold.all(shop.policy.unsold_days)]


def test_two_orders_that_fail_for_a_property_stop_its_sale_and_the_price_says_what_is_possible(shop: Steps) -> None:
    capped(shop)
    assert unsold(shop) == [], "one order proves nothing, however often it is submitted"
    capped(shop)
    assert unsold(shop) == [SIZE]
    with pytest.raises(RefusedError, match=r"4x upscales to up to 2 megapixels cannot be .*smaller image") as no:
        shop.register()
    assert no.value.status == 422


def test_a_success_between_two_failures_keeps_the_property_for_sale(shop: Steps) -> None:
    capped(shop)
    checked(shop, None)
    capped(shop)
    assert unsold(shop) == []
    shop.register()


def test_what_is_not_sold_is_lifted_by_an_operator_or_after_a_time(shop: Steps) -> None:
    capped(shop)
    capped(shop)
    with pytest.raises(RefusedError, match="reason"):
        admin.lift_unsold(shop.ctx, SIZE, " ")
    with pytest.raises(NotFound):
        admin.lift_unsold(shop.ctx, "alpha", "why")
    assert admin.lift_unsold(shop.ctx, SIZE, "the API is mended") == f"{SIZE} is sold again"
    shop.register()
    assert unsold(shop) == []


def test_what_is_not_sold_is_sold_again_after_a_time(shop: Steps) -> None:
    capped(shop)
    capped(shop)
    shop.later(days=31)
    assert unsold(shop) == []
