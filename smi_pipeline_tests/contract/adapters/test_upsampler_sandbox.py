"""The Upsampler client against the sandbox, in both API formats: each understands the other."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image

from smi_pipeline.adapters.fetching.fetcher import HttpFetcher
from smi_pipeline.adapters.upsampler.client import UpsamplerClient
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    NotFound,
    PermanentError,
    RateLimited,
    SmiError,
    TransientError,
)
from smi_pipeline.core.models import ApiFormat, Stage, SubmitRequest, UpscaleReply
from smi_pipeline.core.pricing import credits, output_megapixels
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.contract.adapters.conftest import ScriptedServer

KEY = "upsampler-sandbox-key"
PHOTO = "/photos/coffee-200.jpg"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with Sandbox(
        folder,
        only=("upsampler", "origin"),
        rate_minute=0,
        rate_hour=0,
        rate_status=0,
        processing_seconds=0.2,
        upsampler_key=KEY,
    ) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Iterator[Sandbox]:
    yield running
    running.clear_faults("upsampler")
    running.configure("upsampler", rate_minute=0, rate_hour=0, rate_status=0)


@pytest.fixture(params=list(ApiFormat))
def client(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[UpsamplerClient]:
    sandbox.configure("upsampler", api_format=request.param.value)
    made = UpsamplerClient(sandbox.urls.upsampler + "/api/v1", KEY, request.param, read_timeout=2)
    yield made
    made.close()


@pytest.fixture
def order(sandbox: Sandbox, server: ScriptedServer) -> SubmitRequest:
    server.says(200)
    return SubmitRequest(
        job_id=f"job-{time.monotonic_ns()}",
        image_url=sandbox.urls.origin + PHOTO,
        scale=4,
        webhook_url=f"{server.url}/smi-webhook/upsampler/token",
    )


def until(ready: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def finished(client: UpsamplerClient, external_id: str) -> UpscaleReply:
    until(lambda: client.status(external_id).stage in (Stage.COMPLETED, Stage.FAILED))
    return client.status(external_id)


def test_a_submission_runs_through_its_stages_to_an_image_of_the_right_size(
    client: UpsamplerClient, order: SubmitRequest, sandbox: Sandbox, server: ScriptedServer
) -> None:
    accepted = client.submit(order)
    assert accepted.stage is Stage.QUEUED and accepted.external_id
    done = finished(client, accepted.external_id)
    assert done.external_id == accepted.external_id
    assert done.result_url and done.error is None

    with urlopen(order.image_url) as source, urlopen(done.result_url) as result:
        width, height = Image.open(io.BytesIO(source.read())).size
        assert Image.open(io.BytesIO(result.read())).size == (4 * width, 4 * height)
    assert done.credits == credits(output_megapixels(width, height, 4))

    until(lambda: len(server.requests) == 1)
    assert server.requests[0].path == "/smi-webhook/upsampler/token"
    hint = client.parse_webhook(server.requests[0].body)
    assert (hint.external_id, hint.stage, hint.result_url) == (done.external_id, Stage.COMPLETED, done.result_url)

    entry = sandbox.ledger("upsampler")["submissions"][-1]
    assert (entry["image_url"], entry["scale"], entry["id"]) == (order.image_url, 4, accepted.external_id)


def test_the_documented_api_format_names_our_job_and_when_it_will_be_done(
    order: SubmitRequest, sandbox: Sandbox
) -> None:
    sandbox.configure("upsampler", api_format="documented")
    reply = UpsamplerClient(sandbox.urls.upsampler, KEY, ApiFormat.DOCUMENTED).submit(order)
    assert reply.estimated_completion is not None and reply.estimated_completion.utcoffset() is not None
    assert sandbox.ledger("upsampler")["submissions"][-1]["job_id"] == order.job_id


def test_a_failed_upscale_says_why_in_status_and_webhook(
    client: UpsamplerClient, order: SubmitRequest, sandbox: Sandbox, server: ScriptedServer
) -> None:
    sandbox.fault("upsampler", "fail", error="Out of memory")
    external_id = client.submit(order).external_id
    assert external_id
    failed = finished(client, external_id)
    assert (failed.stage, failed.error, failed.result_url) == (Stage.FAILED, "Out of memory", None)
    until(lambda: len(server.requests) == 1)
    assert client.parse_webhook(server.requests[0].body).stage is Stage.FAILED


def test_an_upscale_that_fails_at_once_is_a_failed_reply_and_no_error(
    client: UpsamplerClient, order: SubmitRequest, sandbox: Sandbox
) -> None:
    sandbox.fault("upsampler", "fail", error="Unsupported", at_once=True)
    reply = client.submit(order)
    assert (reply.stage, reply.error) == (Stage.FAILED, "Unsupported")


def test_a_result_without_url_is_completed_without_url(
    client: UpsamplerClient, order: SubmitRequest, sandbox: Sandbox
) -> None:
    sandbox.fault("upsampler", "no_image_url")
    external_id = client.submit(order).external_id
    assert external_id
    done = finished(client, external_id)
    assert (done.stage, done.result_url) == (Stage.COMPLETED, None)


@pytest.mark.parametrize(
    ("fault", "params", "error"),
    [
        ("reject", {}, PermanentError),
        ("unauthorized", {}, AccountError),
        ("insufficient_credits", {}, AccountError),
        ("status", {"code": 429, "retry_after": 7}, RateLimited),
        ("status", {"code": 503}, TransientError),
        ("status", {"code": 500}, AmbiguousError),
        ("drop", {}, AmbiguousError),
    ],
)
def test_a_refused_submission_is_the_right_error_and_starts_nothing(
    client: UpsamplerClient,
    order: SubmitRequest,
    sandbox: Sandbox,
    fault: str,
    params: dict[str, Any],
    error: type[SmiError],
) -> None:
    before = len(sandbox.ledger("upsampler")["submissions"])
    sandbox.fault("upsampler", fault, **params)
    with pytest.raises(SmiError) as raised:
        client.submit(order)
    assert type(raised.value) is error
    assert getattr(raised.value, "retry_after", None) == {RateLimited: 7, AccountError: 60}.get(error)
    assert len(sandbox.ledger("upsampler")["submissions"]) == before


@pytest.mark.parametrize("fault", ["accept_then_drop", "garbage", "cut_transfer"])
def test_a_submission_that_was_accepted_unheard_is_ambiguous_and_made_only_once(
    client: UpsamplerClient, order: SubmitRequest, sandbox: Sandbox, fault: str
) -> None:
    before = len(sandbox.ledger("upsampler")["submissions"])
    sandbox.fault("upsampler", fault, match={"endpoint": "submit"})
    with pytest.raises(AmbiguousError):
        client.submit(order)
    assert len(sandbox.ledger("upsampler")["submissions"]) == before + 1


def test_a_status_call_that_was_dropped_is_repeated_once(
    client: UpsamplerClient, order: SubmitRequest, sandbox: Sandbox
) -> None:
    external_id = client.submit(order).external_id
    assert external_id
    sandbox.fault("upsampler", "drop", match={"endpoint": "status"})
    assert client.status(external_id).external_id == external_id


def test_a_result_whose_transfer_breaks_off_is_fetched_whole(
    client: UpsamplerClient, order: SubmitRequest, sandbox: Sandbox, tmp_path: Path
) -> None:
    url = finished(client, client.submit(order).external_id or "").result_url or ""
    sandbox.fault("upsampler", "cut_transfer", match={"endpoint": "cdn"})
    fetcher = HttpFetcher([], [sandbox.urls.upsampler], tmp_path)
    with fetcher.fetch(url, kind="result", max_bytes=10**7) as fetched, urlopen(url) as whole:
        assert fetched.path.read_bytes() == whole.read()
    assert [fault["kind"] for fault in sandbox.faults("upsampler")["faults"] if fault["applied"]] == ["cut_transfer"]


def test_an_id_that_the_sandbox_does_not_know_is_not_found(client: UpsamplerClient) -> None:
    with pytest.raises(NotFound):
        client.status("no-such-upscale")


def test_a_wrong_key_is_a_matter_of_the_account(sandbox: Sandbox, order: SubmitRequest) -> None:
    with pytest.raises(AccountError):
        UpsamplerClient(sandbox.urls.upsampler, "wrong", ApiFormat.LIVE).submit(order)


def test_a_wrong_path_stops_submissions_instead_of_convicting_images(sandbox: Sandbox, order: SubmitRequest) -> None:
    with pytest.raises(AccountError, match="address"):
        UpsamplerClient(sandbox.urls.upsampler + "/api/v2", KEY, ApiFormat.LIVE).submit(order)


def test_the_rate_limit_is_told_with_the_time_to_wait(client: UpsamplerClient, sandbox: Sandbox) -> None:
    sandbox.configure("upsampler", rate_status=1)
    with pytest.raises(RateLimited) as raised:
        for _ in range(2):
            with pytest.raises(NotFound):
                client.status("no-such-upscale")
    assert raised.value.retry_after is not None and 1 <= raised.value.retry_after <= 61
