"""One Postfix for all tests of this folder, and a shop whose mails go there."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trustme

from smi_pipeline.adapters.mail.smtp import SmtpMailer
from smi_pipeline_tests.contract.postfix.server import MISSING, POSTFIX, Postfix, running
from smi_pipeline_tests.integration.services.steps import Steps

MakeMailer = Callable[..., SmtpMailer]


@pytest.fixture(scope="package")
def running_postfix() -> Iterator[Postfix]:
    if not POSTFIX:
        pytest.skip(MISSING)
    with running(trustme.CA()) as postfix:
        yield postfix


@pytest.fixture
def postfix(running_postfix: Postfix) -> Postfix:
    running_postfix.greylist.passes = False
    running_postfix.next_server.accepted.clear()
    return running_postfix


@pytest.fixture
def make_mailer(postfix: Postfix) -> MakeMailer:
    """Builds the product's mailer for one configuration of Postfix; keyword arguments change its settings."""

    def make(configuration: str, **changes: Any) -> SmtpMailer:
        settings: dict[str, Any] = {"user": None, "password": None, "starttls": False, "sender": "shop@shop.example"}
        settings |= {"support_email": "help@shop.example", "owner_copy": None, "timeout_seconds": 10}
        return SmtpMailer("127.0.0.1", postfix.ports[configuration], **(settings | changes))

    return make


@pytest.fixture
def shop(state_url: str) -> Iterator[Steps]:
    shop = Steps(state_url)
    yield shop
    shop.close()


def mailing(shop: Steps, mailer: SmtpMailer) -> Steps:
    """The same shop with this mailer."""
    shop.ctx = replace(shop.ctx, mailer=mailer)
    return shop
