import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.models import RenderedMail
from smi_pipeline_tests.unit.mail.conftest import AT, CUSTOMER, MESSAGE_ID, OWNER, body, parsed

Render = Callable[..., RenderedMail]
Facts = dict[str, Any]


def both(mail: RenderedMail) -> list[str]:
    """The text, and the HTML as a reader sees it: without tags and escapes, with single spaces."""
    html = re.sub(r"<style.*?</style>", "", body(mail.content, "html"), flags=re.S)
    seen = re.sub(r"<[^>]+>", " ", html).replace("&amp;", "&").replace("&nbsp;", " ")
    return [" ".join(text.split()) for text in (body(mail.content, "plain"), seen)]


def test_the_completion_mail_says_everything_about_the_file_in_both_parts(render: Render, completion: Facts) -> None:
    for text in both(render("completion", completion)):
        for fact in (
            "Hello Anna,", "4x", "2,048 × 1,536 pixels", "4.2 MB, JPEG", "sunset_4x.jpg", "€1.20",
            "for 24 hours, until Saturday 21 November 2026, 14:05 UTC", "help@example.com", completion["job_id"],
            "What happens next", completion["download_url"],
        ):  # fmt: skip
            assert fact in text


def test_the_completion_mail_links_the_download_the_order_and_each_of_five_stars(
    render: Render, completion: Facts
) -> None:
    mail = render("completion", completion)
    links = re.findall(r'href="([^"]+)"', body(mail.content, "html"))
    for url in (completion["download_url"], completion["status_url"], *completion["rating_urls"].values()):
        assert url.replace("&", "&amp;") in links
        assert url in body(mail.content, "plain")


@pytest.mark.parametrize(
    ("state", "subject", "status", "other"),
    [
        ("pending", "We have started your refund of €1.20", "Refund started", "refunded"),
        ("succeeded", "We have refunded €1.20", "Refunded", "started"),
    ],
)
def test_a_refund_is_said_to_be_started_only_while_it_is_pending(
    render: Render, refund: Facts, state: str, subject: str, status: str, other: str
) -> None:
    mail = render("refund", refund | {"refund_state": state})
    assert mail.subject == subject
    for text in both(mail):
        assert status in text
        assert other not in text.lower()


@pytest.mark.parametrize("kind", ["refund", "duplicate_payment", "goodwill"])
def test_money_back_mails_name_amount_reason_and_when_the_money_arrives(
    render: Render, refund: Facts, kind: str
) -> None:
    for text in both(render(kind, refund)):
        for fact in (
            "Hello,", "€1.20", refund["reason"], "5 to 10 business days", "There is nothing you need to do.",
            "help@example.com", refund["job_id"],
        ):  # fmt: skip
            assert fact in text


def test_a_second_payment_goes_back_and_the_order_goes_on(render: Render, refund: Facts) -> None:
    mail = render("duplicate_payment", refund)
    assert mail.subject == "Your second payment of €1.20 is being returned"
    assert all("Your order is not affected" in text for text in both(mail))
    assert all("could not deliver" not in text for text in both(mail))


def test_goodwill_leaves_the_delivered_image_with_the_customer(render: Render, refund: Facts) -> None:
    mail = render("goodwill", refund | {"refund_state": "succeeded"})
    assert mail.subject == "We have returned €1.20 to you"
    assert all("yours to keep" in text for text in both(mail))


def test_a_mail_about_a_delay_says_that_nothing_need_be_done_and_how_to_end_the_waiting(
    render: Render, delay: Facts
) -> None:
    mail = render("delay", delay)
    assert mail.subject == "Your image takes longer than we promised"
    for text in both(mail):
        for fact in (
            "Hello Anna,", "it continues automatically", "There is nothing you need to do, and your money is safe",
            "cancel the order and get €1.20 back", "sunset", "help@example.com", delay["job_id"],
        ):  # fmt: skip
            assert fact.lower() in text.lower(), fact
    for url in (delay["status_url"], delay["end_waiting_url"]):
        assert url.replace("&", "&amp;") in body(mail.content, "html")
        assert url in body(mail.content, "plain")


@pytest.mark.parametrize("state", ["failed", "canceled", "requires_action", ""])
def test_no_mail_promises_a_refund_that_is_not_on_its_way(render: Render, refund: Facts, state: str) -> None:
    with pytest.raises(RefusedError, match="no mail may promise"):
        render("refund", refund | {"refund_state": state})


def test_an_alert_tells_an_operator_what_and_where(render: Render, alert: Facts) -> None:
    mail = render("alert", alert)
    assert mail.subject == "[Sell My Images] 3 orders are past their deadline"
    for text in both(mail):
        assert all(line in text for line in alert["lines"])
    assert 'href="https://shop.example.com/ops"' in body(mail.content, "html")
    assert "https://shop.example.com/ops" in body(mail.content, "plain")


def test_an_alert_may_have_no_lines_and_no_links(render: Render) -> None:
    assert render("alert", {"subject": "x", "lines": [], "links": {}}).subject == "[Sell My Images] x"


def test_the_headers_are_complete(render: Render, completion: Facts) -> None:
    message = parsed(render("completion", completion).content)
    assert message["From"] == "Sell My Images <shop@example.com>"
    assert message["To"] == CUSTOMER
    assert message["Subject"] == "Your 4x image is ready to download"
    assert message["Date"] == "Fri, 20 Nov 2026 14:05:00 +0000"
    assert message["Message-ID"] == MESSAGE_ID
    assert message["Reply-To"] == "help@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


def test_the_owner_gets_a_blind_copy_of_customer_mails_but_not_of_alerts(
    render: Render, completion: Facts, refund: Facts, alert: Facts
) -> None:
    for kind, facts in (("completion", completion), ("refund", refund), ("duplicate_payment", refund)):
        mail = render(kind, facts)
        assert mail.recipients == (CUSTOMER, OWNER)
        assert OWNER.encode() not in mail.content
    assert render("alert", alert).recipients == (CUSTOMER,)
    assert render("completion", completion, owner_copy=None).recipients == (CUSTOMER,)
    assert render("completion", completion, to=OWNER).recipients == (OWNER,)


def test_rendering_twice_gives_the_same_bytes(render: Render, completion: Facts) -> None:
    assert render("completion", completion).content == render("completion", completion).content


def test_every_line_ends_in_crlf_is_seven_bit_and_fits_the_limit_of_smtp(render: Render, completion: Facts) -> None:
    content = render("completion", completion | {"customer_name": "Björn 🌅"}).content
    assert content.isascii()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content)
    assert max(map(len, content.split(b"\r\n"))) <= 78


def test_long_addresses_and_message_ids_survive_the_folding_of_headers(render: Render, completion: Facts) -> None:
    to, message_id = "a" * 64 + "@" + "sub." * 30 + "example.org", "<" + "x" * 150 + "@shop.example.com>"
    message = parsed(render("completion", completion, to=to, message_id=message_id).content)
    assert message["To"].addresses[0].addr_spec == to
    assert message["Message-ID"].strip() == message_id


def test_names_with_markup_are_shown_and_not_obeyed(render: Render, completion: Facts) -> None:
    evil = '<b onclick="x">Anna</b> & <script>'
    mail = render("completion", completion | {"customer_name": evil, "file_name": "a<img src=x>.png"})
    html = body(mail.content, "html")
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;b onclick" in html
    assert f"Hello {evil}," in body(mail.content, "plain")  # nothing to escape in plain text


@pytest.mark.parametrize("name", ["Zoë Łukasz", "李小龙", "محمد", "O'Brien", "Ωμέγα 🌅"])
def test_names_of_all_languages_arrive_as_they_are(render: Render, completion: Facts, name: str) -> None:
    mail = render("completion", completion | {"customer_name": name})
    assert f"Hello {name}," in body(mail.content, "plain")


def test_a_shop_name_beyond_ascii_is_encoded_in_the_headers(render: Render, completion: Facts) -> None:
    content = render("completion", completion, shop_name="Bilder für Käufer").content
    assert content.isascii()
    assert parsed(content)["From"] == "Bilder für Käufer <shop@example.com>"


def test_a_sender_may_bring_its_own_name(render: Render, completion: Facts) -> None:
    mail = render("completion", completion, sender="Anna's Prints <prints@example.com>")
    assert mail.sender == "prints@example.com"
    assert parsed(mail.content)["From"] == "Anna's Prints <prints@example.com>"


def test_a_sender_whose_domain_has_umlauts_is_written_in_ascii(render: Render, completion: Facts) -> None:
    mail = render("completion", completion, sender="Käufers Bilder <laden@köln.example>", message_id="<1@köln.example>")
    assert mail.sender == "laden@xn--kln-sna.example"
    assert mail.content.isascii()
    message = parsed(mail.content)
    assert message["From"] == "Käufers Bilder <laden@xn--kln-sna.example>"
    assert message["Message-ID"] == "<1@xn--kln-sna.example>" == mail.message_id


@pytest.mark.parametrize(
    ("sender", "name"),
    [
        ("Müller, Söhne & Co. <shop@example.com>", "Müller, Söhne & Co."),
        ('"Müller, Söhne" <shop@example.com>', "Müller, Söhne"),
        ("shop@example.com", "Sell My Images"),
        ("<shop@example.com>", "Sell My Images"),
    ],
)
def test_the_name_of_a_sender_may_have_commas_and_umlauts(
    render: Render, completion: Facts, sender: str, name: str
) -> None:
    (address,) = parsed(render("completion", completion, sender=sender).content)["From"].addresses
    assert (address.display_name, address.addr_spec) == (name, "shop@example.com")


@pytest.mark.parametrize("setting", ["sender", "support_email", "owner_copy"])
def test_an_address_of_the_shop_that_needs_smtputf8_is_refused_at_start(render: Render, setting: str) -> None:
    with pytest.raises(RefusedError, match="beyond ASCII before the @"):
        render("alert", {}, **{setting: "björn@example.com"})


def test_an_address_with_letters_beyond_ascii_is_kept(render: Render, completion: Facts) -> None:
    mail = render("completion", completion, to="björn@köln.example")
    assert mail.recipients[0] == "björn@xn--kln-sna.example"
    assert "To: björn@xn--kln-sna.example\r\n".encode() in mail.content


@pytest.mark.parametrize("evil", ["x\r\nBcc: eve@example.com", "x\nBcc: eve@example.com", "x\rBcc: eve@example.com"])
def test_line_breaks_in_header_values_are_refused(render: Render, completion: Facts, alert: Facts, evil: str) -> None:
    with pytest.raises(RefusedError):
        render("completion", completion, to=f"a@example.org{evil}")
    with pytest.raises(RefusedError):
        render("completion", completion, message_id=f"<{evil}@example.org>")
    with pytest.raises(RefusedError):
        render("alert", alert | {"subject": evil})
    with pytest.raises(RefusedError):
        render("completion", completion, shop_name=evil)
    with pytest.raises(RefusedError):
        render("completion", completion, sender=f"{evil} <shop@example.com>")


def test_line_breaks_in_the_resolution_cannot_reach_the_subject(render: Render, completion: Facts) -> None:
    mail = render("completion", completion | {"resolution": "4x\r\nBcc: eve@example.com"})
    assert parsed(mail.content)["Bcc"] is None


def test_nothing_in_a_mail_is_loaded_from_elsewhere(render: Render, completion: Facts, refund: Facts) -> None:
    for kind, facts in (("completion", completion), ("refund", refund)):
        html = body(render(kind, facts).content, "html")
        assert not re.search(r"<img|<link|<script|\bsrc=|url\(|@import|@font-face", html)


def test_the_styles_are_inlined_and_the_narrow_layout_is_kept(render: Render, completion: Facts) -> None:
    html = body(render("completion", completion).content, "html")
    assert re.search(r'<h1 style="[^"]*font-size: ?26px', html)
    assert "@media (max-width: 480px)" in html


def test_a_missing_fact_is_named(render: Render, completion: Facts) -> None:
    del completion["width"]
    with pytest.raises(RefusedError, match="needs 'width'"):
        render("completion", completion)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", None), ("file_bytes", "many"), ("expires_at", "tomorrow"), ("price_cents", None), ("currency", ""),
        ("rating_urls", {1: "https://shop.example.com/"}), ("rating_urls", None), ("resolution", None),
        ("download_url", "javascript:alert(1)"), ("status_url", None),
    ],
)  # fmt: skip
def test_an_unusable_fact_is_refused(render: Render, completion: Facts, key: str, value: object) -> None:
    with pytest.raises(RefusedError):
        render("completion", completion | {key: value})


def test_rating_links_may_come_back_from_json_with_text_keys(render: Render, completion: Facts) -> None:
    completion["rating_urls"] = {str(stars): url for stars, url in completion["rating_urls"].items()}
    assert "5 of 5 (Excellent)" in body(render("completion", completion).content, "plain")


def test_a_resend_says_how_much_time_is_left(render: Render, completion: Facts) -> None:
    mail = render("completion", completion | {"expires_at": AT + timedelta(hours=3)})
    assert "for 3 hours, until Friday 20 November 2026, 17:05 UTC" in body(mail.content, "plain")


def test_an_unknown_kind_and_a_bad_message_id_are_refused(render: Render, completion: Facts) -> None:
    with pytest.raises(RefusedError, match="no mail of kind"):
        render("newsletter", completion)
    with pytest.raises(RefusedError, match="Message-ID"):
        render("completion", completion, message_id="3f2a@shop.example.com")
