"""Two allowances that learn from 429s, in a new installation and in one that is upgraded while it runs."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import create_engine, text

from smi_pipeline.core.allowance import RESERVE, Allowance, Calls
from smi_pipeline.core.errors import RateLimited
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.state.database import Database
from smi_pipeline.state.rate_limiter import RateLimiter, allowed
from smi_pipeline.state.schema import alembic_config, migrate

SUBMISSIONS = Allowance(per_minute=20, per_hour=100)
STATUS_CALLS = Allowance(per_minute=10)


@pytest.fixture
def database(state_url: str) -> Iterator[Database]:
    database = Database(state_url)
    yield database
    database.dispose()


@pytest.fixture
def limiter(database: Database) -> RateLimiter:
    return RateLimiter(database, submissions=SUBMISSIONS, status_calls=STATUS_CALLS)


def granted(limiter: RateLimiter, purpose: CallPurpose) -> int:
    count = 0
    try:
        while True:
            limiter.acquire(purpose)
            count += 1
    except RateLimited:
        return count


def granted_in_a_minute(limiter: RateLimiter, database: Database) -> int:
    """Where calls are spread."""
    count = 0
    for _ in range(9):
        count += granted(limiter, CallPurpose.SUBMIT)
        later(database, timedelta(seconds=6.5))
    return count


def later(database: Database, span: timedelta) -> None:
    database.run("UPDATE smi.clock SET shift = shift + CAST(:by AS interval)", by=span)


def test_submissions_and_status_calls_use_nothing_of_each_other(limiter: RateLimiter) -> None:
    assert granted(limiter, CallPurpose.SUBMIT) == 20
    assert granted(limiter, CallPurpose.POLL) == 10 - RESERVE
    assert granted(limiter, CallPurpose.URGENT_POLL) == RESERVE


def test_the_hour_is_kept_beside_the_minute(limiter: RateLimiter, database: Database) -> None:
    counts = []
    for _ in range(6):
        counts.append(granted(limiter, CallPurpose.SUBMIT))
        later(database, timedelta(seconds=62))
    assert counts == [20, 20, 20, 20, 20, 0]


@pytest.mark.parametrize(
    ("refused", "other"),
    [(CallPurpose.SUBMIT, CallPurpose.URGENT_POLL), (CallPurpose.POLL, CallPurpose.SUBMIT)],
)
def test_a_429_pauses_one_allowance_for_every_process(
    limiter: RateLimiter, database: Database, refused: CallPurpose, other: CallPurpose
) -> None:
    limiter.acquire(refused)
    limiter.refused(refused, retry_after=40, reason="429")
    second = RateLimiter(database, submissions=SUBMISSIONS, status_calls=STATUS_CALLS)
    with pytest.raises(RateLimited, match="asked to wait") as raised:
        second.acquire(refused)
    assert raised.value.retry_after == pytest.approx(40, abs=2)
    second.acquire(other)


def test_after_a_429_no_more_is_granted_than_before_it(limiter: RateLimiter, database: Database) -> None:
    for _ in range(12):
        limiter.acquire(CallPurpose.SUBMIT)
    limiter.refused(CallPurpose.SUBMIT, retry_after=10, reason="429")
    later(database, timedelta(seconds=62))
    assert granted_in_a_minute(limiter, database) == 11
    later(database, timedelta(minutes=5))
    assert granted_in_a_minute(limiter, database) == 13
    later(database, timedelta(minutes=10))
    assert granted_in_a_minute(limiter, database) == 20


def test_a_429_after_few_calls_lowers_nothing_and_spreads_the_calls(limiter: RateLimiter, database: Database) -> None:
    for _ in range(6):
        limiter.acquire(CallPurpose.SUBMIT)
    limiter.refused(CallPurpose.SUBMIT, retry_after=2, reason="429")
    later(database, timedelta(seconds=62))
    assert granted(limiter, CallPurpose.SUBMIT) == 4, "twice the even pace of six seconds"
    with pytest.raises(RateLimited, match="in a few seconds") as raised:
        limiter.acquire(CallPurpose.SUBMIT)
    assert raised.value.retry_after == pytest.approx(6, abs=1)
    later(database, timedelta(seconds=7))
    assert 4 + granted_in_a_minute(limiter, database) == 20


def test_429s_that_go_on_after_each_pause_make_the_pauses_longer(limiter: RateLimiter, database: Database) -> None:
    pauses = []
    for _ in range(4):
        limiter.acquire(CallPurpose.SUBMIT)
        limiter.refused(CallPurpose.SUBMIT, retry_after=5, reason="429")
        with pytest.raises(RateLimited) as raised:
            limiter.acquire(CallPurpose.SUBMIT)
        pauses.append(round(raised.value.retry_after or 0))
        later(database, timedelta(seconds=pauses[-1] + 1))
    assert pauses == [5, 10, 20, 40]
    later(database, timedelta(seconds=62))
    assert granted_in_a_minute(limiter, database) == 20


def test_a_429_that_comes_again_although_calls_were_taken_lowers_the_limit(
    limiter: RateLimiter, database: Database
) -> None:
    counts = []
    for _ in range(3):
        for _ in range(5):  # the API takes four a minute
            limiter.acquire(CallPurpose.SUBMIT)
            later(database, timedelta(seconds=4))
        limiter.refused(CallPurpose.SUBMIT, retry_after=50, reason="429")
        later(database, timedelta(seconds=51))
        with database.transaction() as tx:
            counts.append(allowed(tx, Calls.SUBMISSIONS, SUBMISSIONS)[0])
    assert counts == [20, 10, 5]


def test_several_429s_at_once_lower_it_to_what_the_api_took(limiter: RateLimiter, database: Database) -> None:
    for _ in range(14):  # the API took ten of them
        limiter.acquire(CallPurpose.SUBMIT)
    for _ in range(4):
        limiter.refused(CallPurpose.SUBMIT, retry_after=10, reason="429")
    later(database, timedelta(seconds=62))
    assert granted_in_a_minute(limiter, database) == 10


def test_without_a_limit_of_ours_a_429_still_pauses(database: Database) -> None:
    limiter = RateLimiter(database, submissions=Allowance(), status_calls=Allowance())
    limiter.refused(CallPurpose.SUBMIT, retry_after=30, reason="429")
    with pytest.raises(RateLimited):
        limiter.acquire(CallPurpose.SUBMIT)
    later(database, timedelta(seconds=31))
    for _ in range(50):
        limiter.acquire(CallPurpose.SUBMIT)
    limiter.refused(CallPurpose.SUBMIT, retry_after=30, reason="429")
    with pytest.raises(RateLimited) as raised:
        limiter.acquire(CallPurpose.SUBMIT)
    assert raised.value.retry_after == pytest.approx(30, abs=2), "calls were taken since the pause before"


def test_a_running_installation_is_upgraded_with_its_calls_and_its_pause(state_url: str) -> None:
    engine = create_engine(state_url)
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0007")
        connection.execute(text("INSERT INTO smi.api_calls (at, purpose) VALUES (smi.now(), 'submit')"))
        connection.execute(
            text(
                "INSERT INTO smi.gates (name, blocked_until, reason)"
                " VALUES ('upsampler', smi.now() + interval '30 seconds', '429')"
            )
        )
    migrate(state_url)
    database = Database(state_url)
    limiter = RateLimiter(database, submissions=SUBMISSIONS, status_calls=STATUS_CALLS)
    for purpose in CallPurpose:
        with pytest.raises(RateLimited, match="asked to wait"):
            limiter.acquire(purpose)
    with engine.begin() as connection:  # the release before still runs
        connection.execute(text("INSERT INTO smi.api_calls (at, purpose) VALUES (smi.now(), 'poll')"))
        connection.execute(text("UPDATE smi.gates SET blocked_until = NULL WHERE name = 'upsampler'"))
    later(database, timedelta(seconds=31))
    assert granted(limiter, CallPurpose.SUBMIT) == 19
    with database.transaction() as tx:
        assert allowed(tx, Calls.SUBMISSIONS, SUBMISSIONS) == (20, 100)
    database.dispose()
    engine.dispose()
