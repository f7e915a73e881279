"""Guessing keys, links and passwords: an address that tries too many waits, and nobody else does."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import smi_pipeline
from smi_pipeline.gateway import throttle
from smi_pipeline.gateway.throttle import GUESSES
from smi_pipeline_tests.gateway.shop import API_KEY, Shop

PACKAGE = Path(smi_pipeline.__file__).parent
ADMIN_KEY = "admin-key-of-the-tests"
Ask = Callable[[int], httpx.Response]


@pytest.fixture
def guarded(make_shop) -> Shop:
    return make_shop(smi_admin_api_key=ADMIN_KEY)


def guessing(shop: Shop) -> dict[str, Ask]:
    """One way to guess each kind of secret; every number is another guess."""
    job_id = shop.delivered()

    def bearer(path: str) -> Ask:
        return lambda n: shop.client.post(path, headers={"Authorization": f"Bearer guess-{n}"}, json={})

    return {
        "download token": lambda n: shop.client.get(f"/smi/v1/download/{n:064x}"),
        "malformed token": lambda n: shop.client.get(f"/smi/v1/download/guess-{n}"),
        "view key": lambda n: shop.client.get(f"/smi/v1/jobs/{job_id}?view=guess-{n}"),
        "view key of the status": lambda n: shop.client.get(f"/smi/v1/job-status/{job_id}?view=guess-{n}"),
        "rating key": lambda n: shop.client.get(f"/smi/v1/rate/{job_id}?key=guess-{n}"),
        "order number": lambda n: shop.client.get(f"/smi/v1/job-status/{n:032x}"),
        "storefront key": bearer("/smi/v1/jobs"),
        "admin key": bearer(f"/smi/v1/admin/jobs/{job_id}/check"),
        "password": lambda n: shop.client.get("/ops", auth=("operator", f"guess-{n}")),
    }


KINDS = (
    *("download token", "malformed token", "view key", "view key of the status", "rating key", "order number"),
    *("storefront key", "admin key", "password"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_who_guesses_too_much_is_told_to_wait(guarded: Shop, kind: str) -> None:
    guess = guessing(guarded)[kind]
    before = guarded.everything()
    assert 429 not in {guess(n).status_code for n in range(GUESSES)}
    refused = guess(GUESSES)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert guarded.everything() == before


@pytest.fixture
def guessed_out(guarded: Shop) -> Shop:
    """A shop where this address has guessed too much."""
    for n in range(GUESSES + 5):
        guarded.client.get(f"/smi/v1/download/{n:064x}")
    return guarded


def test_a_customer_with_a_right_link_is_served_even_beside_a_guesser(guessed_out: Shop) -> None:
    shop = guessed_out
    job_id = shop.delivered()
    for _ in range(3):
        assert shop.client.get(f"/smi/v1/download/{shop.token(job_id)}").status_code == 200
        assert shop.status(job_id, view=True)["step"] == "completed"
        assert "Download" in shop.page(job_id)
        assert shop.client.get(f"/smi/v1/rate/{job_id}?key={shop.rating_key(job_id)}").status_code == 200


def test_the_storefront_sells_on_beside_a_guesser(guessed_out: Shop) -> None:
    reply = guessed_out.client.post("/smi/v1/jobs", headers={"Authorization": f"Bearer {API_KEY}"}, json={})
    assert reply.status_code == 422  # the key was right, the order is empty


def test_the_operators_doors_stay_shut_for_a_guesser_who_hits(guessed_out: Shop) -> None:
    assert guessed_out.client.get("/ops", auth=("operator", "correct horse")).status_code == 429
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}
    job_id = guessed_out.paid()
    assert guessed_out.client.post(f"/smi/v1/admin/jobs/{job_id}/refund", headers=key).status_code == 429
    assert guessed_out.state.refunds.of_job(job_id) == []


def test_asking_without_a_secret_is_no_guess(shop: Shop) -> None:
    job_id = shop.delivered()
    for _ in range(GUESSES + 5):
        assert shop.client.get("/ops").status_code == 401
        assert shop.client.post("/smi/v1/jobs").status_code == 401
        assert shop.client.get(f"/smi/v1/job-status/{job_id}").status_code == 200
    assert shop.client.get("/ops", auth=("operator", "correct horse")).status_code == 200


def test_after_a_minute_the_count_begins_anew(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(throttle, "monotonic", lambda: now[0])
    for n in range(GUESSES + 1):
        last = shop.client.get("/ops", auth=("operator", f"guess-{n}"))
    assert (last.status_code, last.headers["retry-after"]) == (429, "60")
    now[0] += 59.5
    assert shop.client.get("/ops", auth=("operator", "correct horse")).headers["retry-after"] == "1"
    now[0] += 0.6
    assert shop.client.get("/ops", auth=("operator", "correct horse")).status_code == 200


def by(shop: Shop, forwarded: str) -> int:
    headers = {"X-Forwarded-For": forwarded}
    return shop.client.get("/ops", auth=("operator", "wrong"), headers=headers).status_code


def test_behind_the_front_each_client_is_counted_by_itself(shop: Shop) -> None:
    for _ in range(GUESSES + 1):
        last = by(shop, "192.0.2.7")
    assert last == 429
    assert by(shop, "192.0.2.8") == 401
    assert by(shop, "198.51.100.1, 192.0.2.7") == 429, (
        "what stands before the front's own word is the client's invention"
    )


def test_an_ipv6_client_is_its_network(shop: Shop) -> None:
    for n in range(GUESSES + 1):
        last = by(shop, f"2001:db8:0:7::{n:x}")
    assert last == 429
    assert by(shop, "2001:db8:0:8::1") == 401
    assert by(shop, "::ffff:192.0.2.1") == 401


def test_a_stranger_cannot_invent_an_address(make_shop) -> None:
    shop = make_shop(smi_trusted_proxies="192.0.2.1")
    answers = {by(shop, f"198.51.100.{n}") for n in range(GUESSES + 1)}
    assert answers == {401, 429}


def test_many_addresses_do_not_fill_the_memory(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "ADDRESSES", 5)
    for n in range(20):
        by(shop, f"192.0.2.{n}")
    assert len(shop.app.state.gateway.wrong_secrets._windows) == 5


def comparisons() -> Iterator[tuple[str, str]]:
    """Every == and != of the code that strangers reach, as (place, source)."""
    reached = (
        path for folder in ("gateway", "services", "adapters", "core") for path in PACKAGE.glob(f"{folder}/**/*.py")
    )
    for path in reached:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", ast.unparse(node)


def test_secrets_are_compared_at_one_place_and_in_constant_time() -> None:
    words = ("token", "secret", "password", "signature", "digest", "api_key", "authorization")
    found = [(place, code) for place, code in comparisons() if any(word in code.lower() for word in words)]
    assert found == []
    users = [p for p in PACKAGE.rglob("*.py") if "compare_digest" in p.read_text() and "sandbox" not in p.parts]
    assert [path.name for path in users] == ["auth.py"]
