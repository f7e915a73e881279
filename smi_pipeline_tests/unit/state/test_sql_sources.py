"""Who writes what: tables belong to modules, the life cycle to one module, and each commit is a kill point or named."""

import re

import pytest

from smi_pipeline.core.lifecycle import TRANSITIONS
from smi_pipeline.failpoints import COMMITS
from smi_pipeline.state import State, transitions
from smi_pipeline.state.database import Database
from smi_pipeline_tests.sql_sources import committing_methods, statements

OWNERS = {
    "upscale_jobs": {"jobs", "job_rows", "transitions"},
    "outcomes": {"transitions"},
    "job_events": {"database"},
    "submissions": {"submissions", "submission_updates"},
    "payments": {"payment_rows"},
    "refunds": {"refunds", "refund_updates", "pending_refunds"},
    "emails": {"emails"},
    "download_tokens": {"deliveries"},
    "feedback": {"deliveries"},
    "person_tasks": {"manual_tasks"},
    "webhook_inbox": {"webhook_inbox"},
    "cursors": {"reconciliation"},
    "api_calls": {"rate_limiter"},
    "gates": {"rate_limiter"},
    "breakers": {"breakers"},
    "failed_properties": {"unsold"},
    "heartbeat": {"heartbeat"},
    "process_heartbeats": {"heartbeat"},
    "ordered_pictures": {"ordered_pictures"},
    "…": {"leases"},  # leases of all queues by the same statements
}
HISTORY = {("imported_jobs", "INSERT INTO"), ("imported_jobs", "UPDATE")}
"""An import inserts closed jobs with all that belongs to them, as they were elsewhere: no transition leads there. It
completes the rows of those it has inserted before."""

ADMIN = "an admin sees whether it was done, and repeats it"
NEXT_TICK = "the next tick or run repeats it"
NO_KILL_POINT = {
    "jobs.cancel": ADMIN,
    "jobs.check_now": ADMIN,
    "jobs.extend": ADMIN,
    "jobs.hold": ADMIN,
    "jobs.release": ADMIN,
    "jobs.retry": ADMIN,
    "jobs.forget_closed_pictures": NEXT_TICK,
    "jobs.payment_on_its_way": NEXT_TICK,
    "jobs.postpone_abandonment": NEXT_TICK,
    "refunds.await_balance": "the next attempt is refused, too",
    "refunds.spend_key": "the next attempt gets the same answer",
    "submissions.expire_unstarted": NEXT_TICK,
    "submissions.release_poll": "the claim expires after a minute",
    "deliveries.downloaded": "a counter",
    "process_heartbeats.record": "the next one follows within seconds",
    "deliveries.give_up_files": "what is left over is removed by the comparison of files",
    "deliveries.new_token": f"{ADMIN}; for a mail: another attempt makes another link",
    "deliveries.revoke_links": ADMIN,
    "deliveries.renew_links": NEXT_TICK,
    "deliveries.rate": "the customer sees whether it was done",
    "refunds.give_up": "the lease expires, and the refund fails again",
    "refunds.not_needed": "the lease expires, and Stripe is asked again",
    "refunds.owe": ADMIN,
    "emails.give_up": "the lease expires, and the mail fails again",
    "emails.postpone": "the lease expires, and the server is asked again",
    "emails.resend": ADMIN,
    "emails.withdraw": "the lease expires, and it is withdrawn then",
    "leases.give_back": "the lease expires",
    "leases.renew": "the lease expires",
    "limiter.refused": "the next call is refused again",
    "breakers.may_try": "another one may probe when its time is over",
    "breakers.note": "the next failure is counted",
    "breakers.note_success": "the next success is counted",
    "breakers.open_by_hand": ADMIN,
    "breakers.close_by_hand": ADMIN,
    "unsold.lift": ADMIN,
    "jobs.set_address": ADMIN,
    "waiting.end": "the customer sees whether it was done",
    "waiting.queue_delay_mails": NEXT_TICK,
    "manual_tasks.acknowledge": ADMIN,
    "manual_tasks.alerted": "the alert is sent once more",
    "manual_tasks.end_told": "the notice is sent once more",
    "manual_tasks.close": NEXT_TICK,
    "manual_tasks.close_by_id": ADMIN,
    "manual_tasks.open": NEXT_TICK,
    "manual_tasks.open_once": NEXT_TICK,
    "imported_jobs.insert": "one transaction; the command is repeated",
}
"""Committing methods at which no process is killed, and why."""


def test_no_module_of_the_state_writes_the_table_of_another() -> None:
    wrong = [
        f"{statement.module}.{statement.function} writes {table}"
        for statement in statements()
        for verb, table in statement.writes
        if statement.module not in OWNERS[table] and (statement.module, verb) not in HISTORY
    ]
    assert wrong == []


def test_every_table_is_written_by_its_owners() -> None:
    written = {(table, statement.module) for statement in statements() for _, table in statement.writes}
    assert {(table, module) for table, owners in OWNERS.items() for module in owners} <= written


@pytest.mark.parametrize("column", ["status = ", "queue = ", "lease_id = NULL"])
def test_only_the_life_cycle_writes(column: str) -> None:
    writers = {
        statement.module
        for statement in statements()
        if re.search(rf"UPDATE smi\.upscale_jobs\b.*\b{column}", re.split(r"\bWHERE\b", statement.sql)[0], re.S)
    }
    assert writers - {"transitions"} == set()


def test_the_status_is_written_by_the_life_cycle() -> None:
    assert any(s.module == "transitions" and "UPDATE smi.upscale_jobs SET status = " in s.sql for s in statements())


@pytest.mark.parametrize("name", sorted({transition.name for transition in TRANSITIONS}))
def test_each_transition_is_a_function_of_that_name(name: str) -> None:
    assert callable(getattr(transitions, name))


def test_every_commit_is_a_kill_point_or_named_here_with_the_reason() -> None:
    state = State(Database("postgresql+psycopg2://"), secret_keys=(), mail_domain="")
    names = {type(part).__name__: name for name, part in vars(state).items()}
    names |= {"RateLimiter": "limiter", "PostgresHistory": "imported_jobs"}
    committing = {f"{names[owner]}.{method}" for owner, _, method in (m.partition(".") for m in committing_methods())}
    assert committing - set(COMMITS) == set(NO_KILL_POINT)
    assert set(COMMITS) - committing == set()
