"""The judge must see what it is there for: good ledgers give nothing, and each planted wrong gives its sentence."""

import copy
import dataclasses
import io
from typing import Any

import pytest
from PIL import Image

from smi_pipeline.demo.judge import Evidence, ReceivedMail, examine, fee_cents, untold_fault
from smi_pipeline.demo.orders import Order
from smi_pipeline.sandbox import photos
from smi_pipeline.sandbox.upsampler.corruption import CORRUPTIONS
from smi_pipeline.sandbox.upsampler.upscaling import upscale

GOOD, BAD = "a" * 32, "b" * 32
OWNER = "owner@shop.example"
LINK = f"http://127.0.0.1:8080/smi/v1/download/{'f' * 64}"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = photos.make("coffee-200.jpg", tmp_path_factory.mktemp("photos"))
    assert path is not None
    return path.read_bytes()


class ExampleShop:
    """A shop with one delivered and one refunded job, all in order; each test breaks something."""

    def __init__(self, photo: bytes) -> None:
        self.jobs = [
            Order(
                number=1,
                job_id=GOOD,
                case_name="good-4x",
                email="ada@example.com",
                source_url="http://origin/photos/coffee-200.jpg?order=1",
                price_cents=120,
                paid_at=1000.0,
            ),
            Order(
                number=2,
                job_id=BAD,
                case_name="source-swapped",
                email="bob@example.com",
                source_url="http://origin/photos/coffee-200.jpg?order=2",
                price_cents=50,
                paid_at=1000.0,
            ),
        ]
        self.stripe: dict[str, Any] = {
            "intents": [
                {"id": "pi_1", "amount_received": 120, "metadata": {"job_id": GOOD}},
                {"id": "pi_2", "amount_received": 50, "metadata": {"job_id": BAD}},
                {"id": "pi_3", "amount_received": 0, "metadata": {"job_id": GOOD}},  # a declined card
            ],
            "refunds": [{"id": "re_1", "payment_intent": "pi_2", "amount": 50, "status": "succeeded"}],
            "balance_cents": 120 - 33 - 31,
        }
        self.upsampler: dict[str, Any] = {
            "submissions": [
                {"at": 1001.5, "image_url": j.source_url, "scale": j.case.scale, "job_id": j.job_id, "credits": credits}
                for j, credits in zip(self.jobs, (1, 0), strict=True)
            ]
        }
        self.mails = [
            mail("1", "ada@example.com", f"Download it here:\n{LINK}\nOrder: {GOOD}", "Your 4x image is ready"),
            mail(
                "2",
                "bob@example.com",
                f"Your refund has been made. Amount: $0.50. The image was\nchanged after you ordered it. Order: {BAD}",
                "Your refund of $0.50 has been made",
            ),
            ReceivedMail(
                message_id="<3@shop>",
                to=(OWNER,),
                subject="Upsampler takes no submissions",
                text="402",
                at=1020.0,
            ),
        ]
        self.files = {LINK: (200, upscale(photo, 4).body)}
        self.photo = photo

    def violations(self) -> list[str]:
        return self.examine()[1]

    def examine(self) -> Any:
        return examine(self.jobs, self.evidence())

    def evidence(self) -> Evidence:
        return Evidence(
            stripe=self.stripe,
            upsampler=self.upsampler,
            mails=self.mails,
            staff=frozenset({OWNER}),
            download=lambda link: self.files.get(link, (404, b"")),
            source=lambda url: self.photo,
        )


def mail(number: str, to: str, text: str, subject: str = "subject") -> ReceivedMail:
    return ReceivedMail(message_id=f"<{number}@shop>", to=(to, OWNER), subject=subject, text=text, at=1010.0)


@pytest.fixture
def shop(photo: bytes) -> ExampleShop:
    return ExampleShop(photo)


def test_good_ledgers_give_no_violation(shop: ExampleShop) -> None:
    assert shop.violations() == []


def test_findings_hold_what_the_ledgers_say(shop: ExampleShop) -> None:
    good, bad = shop.examine()[0]
    assert (good.outcome, good.mails, good.refunds, good.submissions) == ("delivered", 1, 0, 1)
    assert (good.revenue_cents, good.cost_cents, good.margin_cents) == (120, 4 + 33, 83)
    assert (bad.outcome, bad.revenue_cents, bad.cost_cents, bad.margin_cents) == ("refunded", 0, 31, -31)
    assert (good.submitted_at, good.closed_at) == (1001.5, 1010.0)


def test_a_double_refund_is_seen(shop: ExampleShop) -> None:
    shop.stripe["refunds"].append({**shop.stripe["refunds"][0], "id": "re_2"})
    shop.stripe["balance_cents"] -= 50
    assert any("source-swapped" in said and "refunded 2 times" in said for said in shop.violations())
    assert any("100 of 50 cents" in said for said in shop.violations())


def test_a_double_refund_of_halves_is_seen(shop: ExampleShop) -> None:
    first = shop.stripe["refunds"][0]
    shop.stripe["refunds"] = [{**first, "amount": 25}, {**first, "id": "re_2", "amount": 25}]
    assert any("refunded 2 times" in said for said in shop.violations())


def test_a_refund_that_failed_does_not_count(shop: ExampleShop) -> None:
    shop.stripe["refunds"].insert(0, {**shop.stripe["refunds"][0], "id": "re_0", "status": "failed"})
    assert shop.violations() == []


def test_a_lost_job_is_seen(shop: ExampleShop) -> None:
    del shop.mails[0]
    said = shop.violations()
    assert any("good-4x" in line and "neither delivered nor refunded" in line for line in said)
    assert any("0 closing mails" in line for line in said)


def test_a_lost_refund_is_seen_even_if_the_mail_promises_it(shop: ExampleShop) -> None:
    shop.stripe["refunds"].clear()
    shop.stripe["balance_cents"] += 50
    assert any("neither delivered nor refunded" in said for said in shop.violations())


def test_a_double_mail_is_seen(shop: ExampleShop) -> None:
    shop.mails.append(dataclasses.replace(shop.mails[1], message_id="<3@shop>"))
    assert any("source-swapped" in said and "2 closing mails" in said for said in shop.violations())


def test_the_same_mail_handed_over_twice_is_one_mail(shop: ExampleShop) -> None:
    shop.mails.append(dataclasses.replace(shop.mails[0], at=1020.0))
    assert shop.violations() == []


def test_a_missing_mail_is_seen(shop: ExampleShop) -> None:
    del shop.mails[1]
    assert any("source-swapped" in said and "0 closing mails" in said for said in shop.violations())


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("wrong_image", {}),
        ("black_tile", {"fraction": 0.125}),
        ("bit_flip", {}),
        ("truncated", {"keep": 0.6}),
        ("wrong_dimensions", {"pixels": 16}),
    ],
)
def test_a_wrong_file_is_seen(shop: ExampleShop, kind: str, params: dict[str, Any]) -> None:
    shop.files[LINK] = (200, CORRUPTIONS[kind](upscale(shop.photo, 4), params))
    assert any("good-4x" in said and "wrong file" in said for said in shop.violations())


def test_a_file_in_another_format_is_seen(shop: ExampleShop) -> None:
    out = io.BytesIO()
    Image.open(io.BytesIO(shop.files[LINK][1])).save(out, "PNG")
    shop.files[LINK] = (200, out.getvalue())
    assert any("wrong file" in said for said in shop.violations())


def test_a_shifted_file_is_seen(shop: ExampleShop) -> None:
    image = Image.open(io.BytesIO(shop.files[LINK][1]))
    out = io.BytesIO()
    image.transform(image.size, Image.Transform.AFFINE, (1, 0, 8, 0, 1, 0)).save(out, "JPEG", quality=92)
    shop.files[LINK] = (200, out.getvalue())
    assert any("wrong file" in said for said in shop.violations())


def test_a_link_that_leads_nowhere_is_seen(shop: ExampleShop) -> None:
    shop.files.clear()
    said = shop.violations()
    assert any("a link that answers 404" in line for line in said)
    assert any("neither delivered nor refunded" in line for line in said)


def test_refunded_and_delivered_is_seen(shop: ExampleShop) -> None:
    shop.stripe["refunds"].append({"id": "re_9", "payment_intent": "pi_1", "amount": 120, "status": "pending"})
    shop.stripe["balance_cents"] -= 120
    assert any("delivered and refunded" in said for said in shop.violations())


def test_a_wrong_refund_amount_is_seen(shop: ExampleShop) -> None:
    shop.stripe["refunds"][0]["amount"] = 49
    shop.stripe["balance_cents"] += 1
    assert any("got 49 of 50 cents back" in said for said in shop.violations())


def test_a_wrong_price_is_seen(shop: ExampleShop) -> None:
    shop.stripe["intents"][0]["amount_received"] = 12
    assert any("paid with 12 cents instead of 120" in said for said in shop.violations())


def test_a_second_payment_that_was_not_given_back_is_seen(shop: ExampleShop) -> None:
    shop.stripe["intents"].append({**shop.stripe["intents"][0], "id": "pi_4"})
    shop.stripe["balance_cents"] += 120 - 33
    assert any("2 payments" in said for said in shop.violations())


def test_the_wrong_outcome_is_seen(shop: ExampleShop) -> None:
    shop.jobs[1] = dataclasses.replace(shop.jobs[1], case_name="good-4x")
    assert any("was refunded, but had to be delivered" in said for said in shop.violations())


def test_the_wrong_kind_of_mail_is_seen(shop: ExampleShop) -> None:
    text = shop.mails[1].text + "\n" + LINK
    shop.mails[1] = dataclasses.replace(shop.mails[1], text=text)
    shop.files[LINK] = (410, b"")
    assert any("the wrong mail for being refunded" in said for said in shop.violations())


def test_a_refund_mail_with_another_amount_or_reason_is_seen(shop: ExampleShop) -> None:
    text = shop.mails[1].text
    shop.mails[1] = dataclasses.replace(shop.mails[1], text=text.replace("0.50", "5.00"))
    assert any("does not name the $0.50" in said for said in shop.violations())
    shop.mails[1] = dataclasses.replace(shop.mails[1], text=text.replace("after you ordered", "at night"))
    assert any("without the reason" in said for said in shop.violations())


def test_a_mail_about_another_order_is_seen(shop: ExampleShop) -> None:
    shop.mails[0] = dataclasses.replace(shop.mails[0], text=shop.mails[0].text.replace(GOOD, BAD))
    assert any("does not name the order" in said for said in shop.violations())


def test_a_second_submission_is_seen_unless_everything_was_stopped_in_between(shop: ExampleShop) -> None:
    shop.upsampler["submissions"].append(copy.deepcopy(shop.upsampler["submissions"][0]))
    assert any("submitted 2 times" in said for said in shop.violations())
    shop.jobs[0] = dataclasses.replace(shop.jobs[0], interrupted=True)
    assert shop.violations() == []


def test_a_job_that_was_stopped_may_be_late_but_not_lost(shop: ExampleShop) -> None:
    shop.jobs[1] = dataclasses.replace(shop.jobs[1], case_name="good-4x", interrupted=True)
    assert shop.violations() == []
    shop.stripe["refunds"].clear()
    shop.stripe["balance_cents"] += 50
    assert any("neither delivered nor refunded" in said for said in shop.violations())


def test_credits_that_do_not_fit_the_image_are_seen(shop: ExampleShop) -> None:
    shop.upsampler["submissions"][0]["credits"] = 2
    assert any("cost 2 credits instead of 1" in said for said in shop.violations())


def test_a_submission_without_job_id_is_found_by_its_image(shop: ExampleShop) -> None:
    for record in shop.upsampler["submissions"]:
        record["job_id"] = None
    assert [finding.submissions for finding in shop.examine()[0]] == [1, 1]


def test_a_submission_at_the_wrong_scale_is_seen(shop: ExampleShop) -> None:
    shop.upsampler["submissions"][0]["scale"] = 8
    assert any("submitted for 8x instead of 4x" in said for said in shop.violations())


def test_money_that_does_not_add_up_is_seen(shop: ExampleShop) -> None:
    shop.stripe["balance_cents"] -= 1
    assert any("the balance is" in said for said in shop.violations())


def test_payments_refunds_and_mails_of_strangers_are_seen(shop: ExampleShop) -> None:
    shop.stripe["intents"].append({"id": "pi_9", "amount_received": 100, "metadata": {}})
    shop.stripe["refunds"].append({"id": "re_9", "payment_intent": "pi_8", "amount": 1, "status": "succeeded"})
    shop.mails.append(mail("9", "eve@example.com", "hello"))
    said = " ".join(shop.violations())
    assert "the payment pi_9 belongs to none" in said
    assert "the refund re_9 belongs to no payment" in said
    assert "a mail went to eve@example.com" in said


@pytest.mark.parametrize(("received", "fee"), [(0, 0), (50, 31), (120, 33), (300, 39), (10_000, 320)])
def test_the_fee_is_stripes(received: int, fee: int) -> None:
    assert fee_cents(received) == fee


def test_a_team_that_is_not_told_of_the_fault_of_the_shop_is_a_violation(shop: ExampleShop) -> None:
    assert untold_fault(shop.evidence()) == []
    shop.mails = shop.mails[:2]
    assert untold_fault(shop.evidence()) == ["nobody was told that Upsampler took no submissions"]
