"""Downloads: the right bytes, whole or in one range, and a friendly word when the link no longer works."""

import hashlib
from typing import Any

import httpx
import pytest

from smi_pipeline.services import admin
from smi_pipeline_tests.gateway.shop import CONTENT, Shop, wait_for

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def get(shop: Shop, token: str, **headers: str) -> Any:
    return shop.client.get(f"/smi/v1/download/{token}", headers={k.replace("_", "-"): v for k, v in headers.items()})


def downloads(shop: Shop) -> int:
    return shop.sql("SELECT coalesce(sum(downloads), 0) AS n FROM smi.download_tokens")[0]["n"]


def test_the_file_comes_whole_with_all_that_a_browser_needs(shop: Shop) -> None:
    reply = get(shop, shop.token(shop.delivered()))
    assert reply.status_code == 200
    assert reply.content == CONTENT
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["content-length"] == str(len(CONTENT))
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert reply.headers["content-disposition"] == 'attachment; filename="sunset-4x.png"'
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in reply.headers["content-security-policy"]
    wait_for(lambda: downloads(shop) == 1)


def test_a_range_of_a_head_is_ignored(shop: Shop) -> None:
    path = f"/smi/v1/download/{shop.token(shop.delivered())}"
    assert shop.client.head(path, headers={"Range": "bytes=0-9"}).status_code == 200


def test_a_large_file_is_streamed(shop: Shop) -> None:
    content = bytes(range(251)) * 12_000
    reply = get(shop, shop.token(shop.delivered(content)))
    assert hashlib.sha256(reply.content).digest() == hashlib.sha256(content).digest()


def test_head_tells_all_without_a_body_and_is_no_download(shop: Shop) -> None:
    path = f"/smi/v1/download/{shop.token(shop.delivered())}"
    reply = shop.client.head(path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["content-length"] == str(len(CONTENT))
    assert reply.headers["content-disposition"].startswith("attachment")
    assert downloads(shop) == 0


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-99", 0, 99),
        ("bytes=100-", 100, len(CONTENT) - 1),
        ("bytes=-10", len(CONTENT) - 10, len(CONTENT) - 1),
        ("bytes=0-999999999", 0, len(CONTENT) - 1),
        ("bytes=-999999999", 0, len(CONTENT) - 1),
        ("bytes=5-5", 5, 5),
        ("Bytes = 0-99", 0, 99),
    ],
)
def test_one_range_is_a_206(shop: Shop, asked: str, first: int, last: int) -> None:
    reply = get(shop, shop.token(shop.delivered()), Range=asked)
    assert reply.status_code == 206
    assert reply.content == CONTENT[first : last + 1]
    assert reply.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"


@pytest.mark.parametrize(
    "asked",
    [f"bytes={len(CONTENT)}-", f"bytes={len(CONTENT)}-{10**9}", "bytes=-0", "bytes=99999999999999999999-"],
)
def test_a_range_outside_the_file_is_a_416(shop: Shop, asked: str) -> None:
    reply = get(shop, shop.token(shop.delivered()), Range=asked)
    assert reply.status_code == 416
    assert reply.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,5-9", "pages=1-2", "nonsense", "bytes=a-b", "bytes=5-2", "bytes=99999999999999999999-1", "bytes=-"],
)
def test_what_is_no_single_range_is_answered_whole(shop: Shop, asked: str) -> None:
    reply = get(shop, shop.token(shop.delivered()), Range=asked)
    assert (reply.status_code, reply.content) == (200, CONTENT)


def test_a_broken_download_goes_on_only_with_the_same_file(shop: Shop) -> None:
    token = shop.token(shop.delivered())
    etag = get(shop, token).headers["etag"]
    assert get(shop, token, Range="bytes=100-", If_Range=etag).status_code == 206
    assert get(shop, token, Range="bytes=100-", If_Range='"another"').status_code == 200


def test_a_copy_that_is_still_right_is_a_304(shop: Shop) -> None:
    token = shop.token(shop.delivered())
    etag = get(shop, token).headers["etag"]
    reply = get(shop, token, If_None_Match=f'"x", W/{etag}')
    assert (reply.status_code, reply.content) == (304, b"")
    assert get(shop, token, If_None_Match='"x"').status_code == 200


def test_only_whole_downloads_are_counted(shop: Shop) -> None:
    token = shop.token(shop.delivered())
    get(shop, token, Range="bytes=0-99")
    get(shop, token, Range="bytes=100-")
    assert downloads(shop) == 0
    get(shop, token)
    get(shop, token, Range="bytes=0-")
    wait_for(lambda: downloads(shop) == 2)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (
            "Sonne über Köln",
            "filename=\"Sonne _ber K_ln-4x.png\"; filename*=UTF-8''Sonne%20%C3%BCber%20K%C3%B6ln-4x.png",
        ),
        ("日本", "filename=\"__-4x.png\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC-4x.png"),
        ("a b.c", 'filename="a b.c-4x.png"'),
        ("हि", "filename=\"__-4x.png\"; filename*=UTF-8''%E0%A4%B9%E0%A4%BF-4x.png"),
    ],
)
def test_names_of_any_language_survive(shop: Shop, name: str, header: str) -> None:
    reply = get(shop, shop.token(shop.delivered(file_name=name)))
    assert reply.headers["content-disposition"] == f"attachment; {header}"


@pytest.mark.parametrize("token", ["f" * 64, "f" * 63, "G" * 64, "nonsense", "..%2f" * 5, "a" * 3000])
def test_an_unknown_or_malformed_token_is_a_404(shop: Shop, token: str) -> None:
    shop.delivered()
    reply = get(shop, token)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_an_expired_link_is_a_410_with_the_support_address_for_a_browser(shop: Shop) -> None:
    token = shop.token(shop.delivered(ttl_hours=1))
    shop.sql("UPDATE smi.clock SET shift = '2 hours'")
    assert (get(shop, token).status_code, get(shop, token).json()["error"]["code"]) == (410, "gone")
    page = get(shop, token, **BROWSER)
    assert page.status_code == 410
    assert page.headers["content-type"].startswith("text/html")
    assert "help@shop.example" in page.text
    assert token not in page.text


def test_a_replaced_link_is_a_410_and_the_new_one_works(shop: Shop) -> None:
    job_id = shop.delivered()
    old = shop.token(job_id)
    new = admin.new_token(shop.ctx, job_id).rpartition("/")[2]
    assert (get(shop, old).status_code, get(shop, new).status_code) == (410, 200)
    assert "newer" in get(shop, old).json()["error"]["message"]


def test_a_removed_file_is_a_410(shop: Shop) -> None:
    job_id = shop.delivered()
    shop.sql("UPDATE smi.clock SET shift = '50 hours'")
    assert shop.state.deliveries.give_up_files(job_id) == [], "until its mail was accepted a file is kept"
    shop.sql("UPDATE smi.emails SET state = 'accepted', accepted_at = smi.now()")
    assert shop.state.deliveries.give_up_files(job_id) != []
    shop.sql("UPDATE smi.clock SET shift = '0'")  # the link itself has not expired
    assert get(shop, shop.token(job_id)).status_code == 410


def test_while_a_new_version_is_made_the_link_is_a_425(shop: Shop) -> None:
    job_id = shop.delivered()
    token = shop.token(job_id)
    admin.retry(shop.ctx, job_id, admin_override=True)
    reply = get(shop, token)
    assert reply.status_code == 425
    assert int(reply.headers["retry-after"]) > 0
    assert get(shop, token, **BROWSER).headers["content-type"].startswith("text/html")


def test_a_file_that_is_missing_is_told_to_a_person_once(shop: Shop) -> None:
    job_id = shop.delivered()
    shop.ctx.storage.delete(f"results/{job_id}.png")
    assert [get(shop, shop.token(job_id)).status_code for _ in range(2)] == [503, 503]
    [task] = shop.state.manual_tasks.opened()
    assert (task.kind, task.job_id) == ("file_missing", job_id)


def test_a_file_that_got_shorter_never_passes_for_whole(shop: Shop) -> None:
    job_id = shop.delivered()
    shop.ctx.storage.put_bytes(f"results/{job_id}.png", CONTENT[:100])
    with pytest.raises(httpx.RemoteProtocolError):
        get(shop, shop.token(job_id))
    assert downloads(shop) == 0


def test_without_a_database_it_is_a_503(dead_shop: Shop) -> None:
    assert get(dead_shop, "f" * 64).status_code == 503


def test_a_customer_is_never_asked_for_more_than_the_link(shop: Shop) -> None:
    reply = get(shop, shop.token(shop.delivered()), Origin="https://evil.example")
    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers
    assert "set-cookie" not in reply.headers
