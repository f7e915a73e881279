"""The shop of a test."""

from collections.abc import Iterator

import pytest

from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests.integration.services.databases import empty, shared_database
from smi_pipeline_tests.integration.services.steps import Steps


@pytest.fixture(scope="package")
def services_url(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    with shared_database(postgres) as url:
        yield url


@pytest.fixture
def empty_url(services_url: str) -> str:
    """The database with nothing in it."""
    empty(services_url)
    return services_url


@pytest.fixture
def shop(empty_url: str) -> Iterator[Steps]:
    shop = Steps(empty_url)
    yield shop
    shop.close()


@pytest.fixture
def job_id(shop: Steps) -> str:
    """A job that was delivered a moment ago; its mail is owed."""
    job_id = shop.paid()
    shop.complete(job_id)
    return job_id
