"""The image origin serves photographs, and its faults do what they say."""

import io
from typing import Any

import pytest
import requests
from PIL import Image

from smi_pipeline.sandbox import photos
from smi_pipeline.sandbox.server import Sandbox


def get(sandbox: Sandbox, name: str, **options: Any) -> requests.Response:
    return requests.get(f"{sandbox.urls.origin}/photos/{name}", timeout=10, **options)


def test_the_catalogue_tells_the_truth_about_every_format(sandbox: Sandbox) -> None:
    catalogue = requests.get(f"{sandbox.urls.origin}/photos", timeout=30).json()
    assert {entry["format"] for entry in catalogue} == {"PNG", "JPEG", "WEBP"}
    assert len({(entry["width"], entry["height"]) for entry in catalogue}) > 10
    for entry in catalogue[::7]:
        body = requests.get(entry["url"], timeout=10).content
        image = Image.open(io.BytesIO(body))
        assert (*image.size, image.format, len(body)) == (*(entry[key] for key in ("width", "height", "format")),
                                                          entry["bytes"])  # fmt: skip


@pytest.mark.parametrize("name", ["nobody-200.jpg", "coffee-200.gif", "coffee-9999.jpg", "..%2f..%2fledger"])
def test_what_is_not_there_is_a_404(sandbox: Sandbox, name: str) -> None:
    assert get(sandbox, name).status_code == 404


def test_some_photographs_have_what_phones_and_cameras_attach(sandbox: Sandbox) -> None:
    for photo, attached in photos.ATTACHED.items():
        body = get(sandbox, f"{photo}-200.jpg").content
        assert body.endswith(b"\xff\xd9" + attached)
        Image.open(io.BytesIO(body)).load()


def test_the_ledger_lists_requests(sandbox: Sandbox) -> None:
    get(sandbox, "moon-300.png")
    last = sandbox.ledger("origin")["requests"][-1]
    assert last == {"at": last["at"], "method": "GET", "path": "/photos/moon-300.png", "status": 200}


@pytest.mark.parametrize("content", ["gif", "bmp", "tiff", "text", "html", "svg", "other_photo"])
def test_swap_answers_other_content_from_now_on(sandbox: Sandbox, content: str) -> None:
    good = get(sandbox, "grass-200.jpg").content
    sandbox.fault("origin", "swap", match={"path": "grass-200.jpg"}, content=content)
    replies = [get(sandbox, "grass-200.jpg").content for _ in range(2)]
    assert replies[0] == replies[1] != good
    if content in ("gif", "bmp", "tiff"):
        assert Image.open(io.BytesIO(replies[0])).format == content.upper()
    if content == "other_photo":
        assert Image.open(io.BytesIO(replies[0])).size == Image.open(io.BytesIO(good)).size


def test_a_host_can_choose_the_format_by_accept(sandbox: Sandbox) -> None:
    good = get(sandbox, "coffee-200.jpg").content
    sandbox.fault("origin", "negotiates", match={"path": "coffee-200.jpg"})
    browser = get(sandbox, "coffee-200.jpg", headers={"Accept": "image/avif,image/webp,*/*;q=0.8"})
    assert Image.open(io.BytesIO(browser.content)).format == "WEBP"
    assert get(sandbox, "coffee-200.jpg").content == good


@pytest.mark.parametrize("name", ["coffee-300.jpg", "coffee-300.png", "chelsea-300.webp"])
def test_a_host_can_code_its_photographs_anew_at_each_request(sandbox: Sandbox, name: str) -> None:
    good = Image.open(io.BytesIO(get(sandbox, name).content))
    sandbox.fault("origin", "recompresses", match={"path": name})
    replies = [get(sandbox, name).content for _ in range(6)]
    assert len(set(replies)) > 1
    for reply in replies:
        again = Image.open(io.BytesIO(reply))
        assert (again.format, again.size) == (good.format, good.size)


def test_a_transfer_can_stand_still(sandbox: Sandbox) -> None:
    sandbox.fault("origin", "stall", match={"path": "coffee-200.jpg"}, seconds=30)
    with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
        requests.get(f"{sandbox.urls.origin}/photos/coffee-200.jpg", timeout=0.5)


def test_zero_bytes_truncated_status_and_redirect(sandbox: Sandbox) -> None:
    good = get(sandbox, "coins-200.png").content
    sandbox.fault("origin", "zero_bytes")
    assert get(sandbox, "coins-200.png").content == b""
    sandbox.fault("origin", "truncated", keep=0.5)
    assert get(sandbox, "coins-200.png").content == good[: len(good) // 2]
    sandbox.fault("origin", "status", code=403)
    assert get(sandbox, "coins-200.png").status_code == 403
    sandbox.fault("origin", "redirect", to="http://169.254.169.254/")
    reply = get(sandbox, "coins-200.png", allow_redirects=False)
    assert (reply.status_code, reply.headers["Location"]) == (302, "http://169.254.169.254/")
    assert get(sandbox, "coins-200.png").content == good
