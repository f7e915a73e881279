"""A process that is stopped in the middle of a transaction (SIGSTOP, a suspended machine) holds up nobody for long."""

import time

import pytest

from smi_pipeline.core.allowance import Allowance
from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.state.database import Database
from smi_pipeline.state.rate_limiter import RateLimiter

ALLOWANCE_LOCK = "SELECT pg_advisory_xact_lock(727464003)"


def test_the_locks_of_a_process_that_was_stopped_in_a_transaction_are_given_to_the_others(state_url: str) -> None:
    stopped, other = Database(state_url, idle_seconds=0.5), Database(state_url)
    limiter = RateLimiter(other, submissions=Allowance(per_minute=60), status_calls=Allowance())
    acquired = False
    try:
        with pytest.raises(TransientError), stopped.transaction() as transaction:
            transaction.run(ALLOWANCE_LOCK)
            limiter.acquire(CallPurpose.SUBMIT)  # waits until the other one's transaction is ended for it
            acquired = True
            ends = time.monotonic() + 30
            while time.monotonic() < ends:  # the other one goes on, and must learn that nothing of it counts
                transaction.run("SELECT 1")
                time.sleep(0.1)
    finally:
        stopped.dispose()
        other.dispose()
    assert acquired


def test_every_connection_has_such_a_limit_below_the_time_of_a_lease(state_url: str) -> None:
    database = Database(state_url)
    try:
        with database.transaction() as transaction:
            limit = transaction.value(
                "SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
            )
    finally:
        database.dispose()
    assert 0 < limit < 45_000


def test_a_standby_is_a_database_that_does_not_answer_for_the_time_being(state_url: str) -> None:
    database = Database(state_url)
    try:
        with database.transaction() as transaction:
            name = transaction.value("SELECT current_database()")
            transaction.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database.dispose()
        with pytest.raises(TransientError, match="standby"), database.transaction() as transaction:
            transaction.run("INSERT INTO smi.cursors (name, value) VALUES ('a', 'b')")
    finally:
        database.dispose()
