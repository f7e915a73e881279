"""`smi jobs …` over real PostgreSQL, and once against the sandbox."""

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.services.steps import IMAGE, Steps

UNKNOWN = "f" * 32


def test_add_registers_an_order_and_prints_where_to_pay(smi: Smi, shop: Steps) -> None:
    ran = smi("jobs", "add", IMAGE, "4x", "customer@example.org", "--name", "Anna")
    assert ran.code == 0
    assert "https://pay.example/" in ran.out
    made = smi("jobs", "add", IMAGE, "8x", "customer@example.org", "--json").json
    assert made["checkout_url"].startswith("https://pay.example/")
    assert shop.job(made["job_id"]).status == "awaiting_payment"
    assert shop.state.queries.events(made["job_id"])[0].actor == "test"


def test_add_refuses_bad_input_in_one_line_and_changes_nothing(smi: Smi, shop: Steps) -> None:
    shop.fetcher.bodies["https://images.example/x.txt"] = b"TEXT"
    for url, resolution, email in (
        (IMAGE, "16x", "a@example.org"),
        (IMAGE, "4x", "nobody"),
        ("https://images.example/x.txt", "4x", "a@example.org"),
    ):
        ran = smi("jobs", "add", url, resolution, email)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert shop.state.queries.counts() == {}


def test_list_shows_jobs_without_addresses(smi: Smi, shop: Steps) -> None:
    assert "no upscale jobs yet" in smi("jobs", "list").out
    delivered, waiting = shop.delivered(), shop.register().job_id
    ran = smi("jobs", "list")
    assert delivered in ran.out and waiting in ran.out
    listed = smi("jobs", "list", "--status", "completed", "--json")
    assert [job["job_id"] for job in listed.json["jobs"]] == [delivered]
    assert "customer@example.org" not in ran.out + listed.out
    assert "Anna" not in listed.out


def test_show_tells_everything_of_one_job(smi: Smi, shop: Steps) -> None:
    job_id = shop.failed()
    shop.refund_due()
    shop.mail_due()
    ran = smi("jobs", "show", job_id)
    for expected in (job_id, "refunded", "Upsampler could not process it", "customer@example.org", "re_1",
                     "refund_succeeded", "next step", "accepted"):  # fmt: skip
        assert expected in ran.out, expected
    known = smi("jobs", "show", job_id, "--json").json
    assert known["job"]["status"] == "refunded"
    assert known["refunds"][0]["stripe_refund_id"] == "re_1"
    assert known["emails"][0]["kind"] == "refund"
    assert "content" not in known["emails"][0]
    assert known["next_step"].endswith(".")


def test_an_unknown_job_is_one_line_for_every_command(smi: Smi, shop: Steps) -> None:
    for arguments in (
        ("show", UNKNOWN), ("retry", UNKNOWN), ("check", UNKNOWN), ("extend", UNKNOWN, 5), ("refund", UNKNOWN),
        ("resend", UNKNOWN), ("token", UNKNOWN), ("cancel", UNKNOWN), ("hold", UNKNOWN, "why"), ("release", UNKNOWN),
        ("adopt", "pi_1", UNKNOWN), ("refund-payment", "pi_1"), ("show", "\udcff"),
    ):  # fmt: skip
        ran = smi("jobs", *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), arguments
        assert "there is no" in ran.err


def test_each_action_reaches_its_service(smi: Smi, shop: Steps) -> None:
    job_id = shop.paid()
    assert smi("jobs", "hold", job_id, "fraud?").out == "held\n"
    assert shop.job(job_id).hold_reason == "fraud?"
    assert smi("jobs", "release", job_id, "--json").json == {"job_id": job_id, "done": "released"}
    shop.submit_due()
    assert smi("jobs", "extend", job_id, "5").code == 0
    assert smi("jobs", "extend", job_id, "nan").code == 1
    shop.upscaler.finish(shop.external_id(job_id))
    assert "completed" in smi("jobs", "check", job_id).out
    shop.fulfil_due()
    shop.mail_due()
    assert "accepted" in smi("jobs", "resend", job_id).out
    assert "/smi/v1/download/" in smi("jobs", "token", job_id).out
    assert smi("jobs", "retry", job_id).code == 1
    assert "re_1" in smi("jobs", "refund", job_id).out
    assert "round 2" in smi("jobs", "retry", job_id, "--admin-override").out
    assert "cancelled" in smi("jobs", "cancel", job_id).out
    for name, intent in (("adopt", 50), ("refund-payment", 60)):
        orphan = shop.payments.pay(UNKNOWN, intent)
        shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": orphan}, UNKNOWN)
        target = (shop.register().job_id,) if name == "adopt" else ()
        assert smi("jobs", name, orphan, *target).code == 0


def test_against_the_sandbox_an_order_can_be_made_and_cancelled(smi: Smi, configured: Sandbox) -> None:
    import requests

    source = f"{configured.urls.origin}/photos/coffee-200.jpg"
    made = smi("jobs", "add", source, "4x", "customer@example.org", "--json")
    assert made.code == 0, made.err
    assert requests.get(made.json["checkout_url"], timeout=5).status_code == 200
    assert "not paid" in smi("jobs", "cancel", made.json["job_id"]).out
    assert smi("jobs", "show", made.json["job_id"], "--json").json["job"]["status"] == "abandoned"
