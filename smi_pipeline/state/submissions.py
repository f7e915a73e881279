"""From a paid job to a known result: preparation, the calls to Upsampler, and what status calls answer."""

from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError

from smi_pipeline.core.errors import LeaseLost
from smi_pipeline.core.lifecycle import callback_token, token_hash
from smi_pipeline.core.models import ImageInfo, Stage, Status, Submission, UpscaleReply
from smi_pipeline.core.policy import Policy
from smi_pipeline.state.database import Database, Transaction, as_record
from smi_pipeline.state.heartbeat import UP_SINCE, beat

_JOB_OPEN = """status IN ('pending', 'processing') AND NOT EXISTS (
    SELECT FROM smi.outcomes o WHERE o.job_id = j.job_id AND o.round = j.round)"""

_CALL_OPEN = "(state IN ('sending', 'accepted') OR state = 'lost' AND external_id IS NOT NULL)"
"""A call that may still succeed: also one that was closed as lost and then identified by its webhook."""

LONGEST_CALL = timedelta(minutes=1)
"""No call to Upsampler lasts longer: its client gives up before."""


class Submissions:
    """From a paid job to a known result."""

    def __init__(self, database: Database, secret_key: str) -> None:
        self._database = database
        self._secret_key = secret_key

    def prepared(
        self, job_id: str, lease_id: str, *, source: ImageInfo, source_key: str, expected_seconds: float, actor: str
    ) -> None:
        """Sets the job `processing` with its kept source. Raises LeaseLost."""
        with self._database.transaction() as tx:
            job = tx.row(
                """SELECT status, source_sha256 FROM smi.upscale_jobs
                   WHERE job_id = :id AND lease_id = :lease FOR UPDATE""",
                id=job_id,
                lease=lease_id,
            )
            if job is None:
                raise LeaseLost(f"job {job_id} was leased to another run")
            before = job["status"]
            tx.run(
                """UPDATE smi.upscale_jobs SET status = 'processing', source_key = :source_key,
                       source_sha256 = :sha256, source_bytes = :bytes, expected_seconds = :expected,
                       processing_at = coalesce(processing_at, smi.now())
                   WHERE job_id = :id""",
                id=job_id,
                source_key=source_key,
                sha256=source.sha256,
                bytes=source.bytes,
                expected=expected_seconds,
            )
            if before != Status.PROCESSING:
                tx.event(
                    job_id,
                    "prepared",
                    actor=actor,
                    from_status=before,
                    to_status=Status.PROCESSING,
                    expected_seconds=round(expected_seconds, 1),
                    # another file of the same size: what is kept and delivered is what the shop shows now
                    source_changed=job["source_sha256"] != source.sha256,
                )

    def of_job(self, job_id: str) -> list[Submission]:
        """All calls of a job, oldest first."""
        with self._database.transaction() as tx:
            rows = tx.rows("SELECT * FROM smi.submissions WHERE job_id = :id ORDER BY submission_id", id=job_id)
        return [as_record(Submission, row) for row in rows]

    def get(self, submission_id: int) -> Submission | None:
        """One call."""
        with self._database.transaction() as tx:
            row = tx.row("SELECT * FROM smi.submissions WHERE submission_id = :id", id=submission_id)
        return as_record(Submission, row) if row else None

    def begin(self, job_id: str, lease_id: str, *, actor: str) -> tuple[int, str] | None:
        """Commits the intent of a call: (submission_id, callback token), or None while another is open.
        Raises LeaseLost."""
        try:
            with self._database.transaction() as tx:
                row = tx.row(
                    """INSERT INTO smi.submissions (job_id, round)
                       SELECT job_id, round FROM smi.upscale_jobs
                       WHERE job_id = :id AND lease_id = :lease AND lease_until > smi.now() -- else the clock may end it
                       RETURNING submission_id""",
                    id=job_id,
                    lease=lease_id,
                )
                if row is None:
                    raise LeaseLost(f"job {job_id} was leased to another run")
                token = callback_token(self._secret_key, row["submission_id"])
                tx.run(
                    "UPDATE smi.submissions SET token_hash = :hash WHERE submission_id = :id",
                    id=row["submission_id"],
                    hash=token_hash(token),
                )
                tx.event(job_id, "submitting", actor=actor, submission=row["submission_id"])
                return row["submission_id"], token
        except IntegrityError:  # submissions_one_open: another call is open already
            return None

    def accepted(self, submission_id: int, reply: UpscaleReply, *, policy: Policy, actor: str) -> None:
        # Without a condition on the lease: the API has accepted, whoever works on the row now.
        """The API accepted: the job leaves the queue, its deadline starts. Needs no lease: it is a fact."""
        with self._database.transaction() as tx:
            _accept(tx, submission_id, reply, policy, actor)

    def mark_rejected(self, submission_id: int, error: str) -> None:
        """The API certainly did not accept: the call is closed."""
        with self._database.transaction() as tx:
            tx.run(
                """UPDATE smi.submissions SET state = 'rejected', error = :error, finished_at = smi.now()
                   WHERE submission_id = :id AND state = 'sending'""",
                id=submission_id,
                error=error[:500],
            )

    def mark_lost(self, submission_id: int, *, actor: str) -> bool:
        """Closes an unanswered call after the grace time."""
        with self._database.transaction() as tx:
            row = tx.row(
                """UPDATE smi.submissions SET state = 'lost', finished_at = smi.now()
                   WHERE submission_id = :id AND state = 'sending' RETURNING job_id""",
                id=submission_id,
            )
            if row:
                tx.event(row["job_id"], "submission_lost", actor=actor, submission=submission_id)
            return row is not None

    def mark_for_poll(self, hash_: str, reply: UpscaleReply, *, policy: Policy) -> bool:
        """A webhook came for the call with this token hash: its status call is due now. False for an unknown hash."""
        with self._database.transaction() as tx:
            row = tx.row("SELECT * FROM smi.submissions WHERE token_hash = :hash FOR UPDATE", hash=hash_)
            if row is None:
                return False
            if row["external_id"] is None and reply.external_id:
                taken = tx.value("SELECT 1 FROM smi.submissions WHERE external_id = :id", id=reply.external_id)
                if not taken and row["state"] == "sending":
                    _accept(tx, row["submission_id"], reply, policy, "upsampler webhook")
                elif not taken:
                    tx.run(
                        """UPDATE smi.submissions SET external_id = :external_id, accepted_at = smi.now(),
                                  deadline_at = coalesce(deadline_at, created_at + CAST(:life AS interval))
                           WHERE submission_id = :id""",
                        external_id=reply.external_id,
                        id=row["submission_id"],
                        life=policy.max_processing,
                    )
            tx.run(
                """UPDATE smi.submissions SET next_poll_at = smi.now(), hinted = true
                   WHERE submission_id = :id AND external_id IS NOT NULL
                     AND state IN ('accepted', 'lost', 'timed_out')""",
                id=row["submission_id"],
            )
            return True

    def claim_due_polls(self, limit: int) -> list[Submission]:
        """Takes what is due for a status call, close to its deadline first, then hinted ones."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """UPDATE smi.submissions SET next_poll_at = smi.now() + interval '60 seconds'
                   WHERE submission_id IN (
                       SELECT submission_id FROM smi.submissions WHERE next_poll_at <= smi.now()
                       ORDER BY state = 'accepted' AND deadline_at < smi.now() + interval '60 seconds' DESC NULLS LAST,
                                hinted DESC, next_poll_at
                       LIMIT :limit FOR UPDATE SKIP LOCKED)
                   RETURNING *""",
                limit=limit,
            )
        return [as_record(Submission, row) for row in sorted(rows, key=lambda row: not row["hinted"])]

    def release_poll(self, submission_id: int, *, seconds: float) -> None:
        """Puts a taken one back."""
        with self._database.transaction() as tx:
            tx.run(
                """UPDATE smi.submissions SET next_poll_at = smi.now() + make_interval(secs => :seconds)
                   WHERE submission_id = :id AND next_poll_at IS NOT NULL""",
                id=submission_id,
                seconds=seconds,
            )

    def poll_answered(self, submission_id: int, reply: UpscaleReply, *, policy: Policy, actor: str) -> str:
        """Applies a status answer: ready (the job goes to fulfilment), waiting, settled (no effect on the job)
        or known."""
        with self._database.transaction() as tx:
            row = tx.row(
                "SELECT *, smi.now() AS now FROM smi.submissions WHERE submission_id = :id FOR UPDATE",
                id=submission_id,
            )
            if row is None or row["state"] in ("completed", "failed", "rejected"):
                return "known"
            tx.run(
                """UPDATE smi.submissions SET polls = polls + 1, poll_errors = 0, hinted = false,
                          credits = coalesce(:credits, credits) WHERE submission_id = :id""",
                id=submission_id,
                credits=reply.credits,
            )
            if reply.stage in (Stage.COMPLETED, Stage.FAILED):
                return _finish(tx, row, reply, actor)
            if row["state"] == "timed_out" or (row["deadline_at"] and row["deadline_at"] <= row["now"]):
                return _time_out(tx, row, actor)
            tx.run(
                """UPDATE smi.submissions SET next_poll_at =
                          least(smi.now() + CAST(:every AS interval), greatest(deadline_at, smi.now()))
                   WHERE submission_id = :id""",
                id=submission_id,
                every=policy.poll_every,
            )
            tx.run(
                """UPDATE smi.upscale_jobs SET stage = :stage,
                          estimated_completion = coalesce(:eta, estimated_completion)
                   WHERE job_id = :job_id AND round = :round AND status = 'processing'
                     AND stage IS DISTINCT FROM :stage""",
                job_id=row["job_id"],
                round=row["round"],
                stage=reply.stage,
                eta=reply.estimated_completion,
            )
            return "waiting"

    def poll_failed(self, submission_id: int, *, seconds: float, policy: Policy, actor: str, counts: bool) -> str:
        """No answer: later, or ready when the patience after the deadline is over."""
        with self._database.transaction() as tx:
            row = tx.row(
                f"""SELECT *, smi.now() AS now, greatest(deadline_at, {UP_SINCE}) AS last_asked_from
                    FROM smi.submissions WHERE submission_id = :id FOR UPDATE""",
                id=submission_id,
            )
            if row is None or row["state"] not in ("accepted", "lost", "timed_out"):
                return "known"
            if row["deadline_at"] and row["last_asked_from"] + policy.last_poll_patience <= row["now"]:
                return _time_out(tx, row, actor)
            tx.run(
                """UPDATE smi.submissions SET poll_errors = poll_errors + :counts,
                          next_poll_at = CASE WHEN deadline_at > smi.now()
                              THEN least(smi.now() + make_interval(secs => :seconds), deadline_at)
                              ELSE smi.now() + make_interval(secs => least(:seconds, 10)) END
                   WHERE submission_id = :id""",
                id=submission_id,
                seconds=seconds,
                counts=int(counts),
            )
            return "later"

    def expire_unstarted(self, *, policy: Policy) -> int:
        """Hands jobs past `start_by` without an open call to fulfilment, which fails them. Returns how many. Closes
        unanswered calls whose jobs nobody works on any more."""
        with self._database.transaction() as tx:
            beat(tx, limit=policy.max_outage)
            # Whoever made such a call is gone, and its job may be closed or on hold: nobody else would come to it.
            rows = tx.rows(
                """UPDATE smi.submissions SET state = 'lost', finished_at = smi.now()
                   WHERE state = 'sending' AND created_at + CAST(:longest AS interval) <= smi.now()
                   RETURNING job_id, submission_id""",
                longest=policy.ambiguous_grace + LONGEST_CALL,
            )
            for row in rows:
                tx.event(row["job_id"], "submission_lost", actor="clock", submission=row["submission_id"])
            return tx.run(
                f"""UPDATE smi.upscale_jobs j SET queue = 'fulfil', next_attempt_at = smi.now(), attempts = 0,
                          hold_reason = NULL, held_at = NULL, lease_id = NULL, lease_until = NULL
                   WHERE queue = 'submit' AND (lease_id IS NULL OR lease_until <= smi.now())
                     AND start_by + CASE WHEN hold_reason IS NULL THEN interval '0'
                                         ELSE least(smi.now() - held_at, CAST(:max_hold AS interval)) END <= smi.now()
                     AND NOT EXISTS (SELECT FROM smi.submissions s
                                     WHERE s.job_id = j.job_id AND s.round = j.round AND {_CALL_OPEN})""",
                max_hold=policy.max_hold,
            )

    def in_flight(self) -> int:
        """Open calls, and leased jobs that are about to make one."""
        with self._database.transaction() as tx:
            return tx.value(
                """SELECT (SELECT count(*) FROM smi.submissions WHERE state IN ('sending', 'accepted'))
                        + (SELECT count(*) FROM smi.upscale_jobs j WHERE queue = 'submit' AND lease_until > smi.now()
                           AND NOT EXISTS (SELECT FROM smi.submissions s WHERE s.job_id = j.job_id
                                           AND s.state IN ('sending', 'accepted')))"""
            )

    def recent_seconds(self, megapixels: float) -> list[float]:
        """Durations of recent deliveries of about this output size."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT extract(epoch FROM completed_at - processing_at)::float AS seconds
                   FROM (SELECT * FROM smi.upscale_jobs WHERE status = 'completed' -- by its index, not all there are
                         ORDER BY created_at DESC LIMIT 1000) AS recent
                   WHERE processing_at IS NOT NULL
                     AND source_width::float * source_height * scale * scale / 1e6 BETWEEN :low AND :high
                   ORDER BY completed_at DESC LIMIT 50""",
                low=megapixels / 2,
                high=megapixels * 2,
            )
        return [row["seconds"] for row in rows]

    def now(self) -> datetime:
        """The state's clock."""
        return self._database.now()


def _accept(tx: Transaction, submission_id: int, reply: UpscaleReply, policy: Policy, actor: str) -> None:
    # The first look comes after the announced completion, never later than the polling interval.
    row = tx.row(
        """UPDATE smi.submissions SET state = CASE WHEN state = 'sending' THEN 'accepted' ELSE state END,
               external_id = :external_id, accepted_at = smi.now(), finished_at = NULL,
               deadline_at = smi.now() + CAST(:life AS interval), credits = coalesce(:credits, credits),
               next_poll_at = least(smi.now() + CAST(:every AS interval), smi.now() + CAST(:life AS interval))
           WHERE submission_id = :id AND state IN ('sending', 'lost') AND external_id IS NULL
           RETURNING job_id, round, state, deadline_at""",
        id=submission_id,
        external_id=reply.external_id,
        credits=reply.credits,
        life=policy.max_processing,
        every=policy.poll_every,
    )
    if row is None or row["state"] != "accepted":
        return
    tx.run(
        """UPDATE smi.upscale_jobs j SET queue = NULL, lease_id = NULL, lease_until = NULL, attempts = 0,
               last_error = NULL, submitted_at = coalesce(submitted_at, smi.now()), deadline_at = :deadline,
               stage = :stage, estimated_completion = :eta
           WHERE job_id = :job_id AND round = :round AND queue = 'submit'""",
        job_id=row["job_id"],
        round=row["round"],
        deadline=row["deadline_at"],
        stage=reply.stage if reply.stage in (Stage.QUEUED, Stage.PROCESSING) else Stage.PROCESSING,
        eta=reply.estimated_completion,
    )
    tx.event(row["job_id"], "submitted", actor=actor, submission=submission_id, external_id=reply.external_id)


def _finish(tx: Transaction, row, reply: UpscaleReply, actor: str) -> str:
    completed = reply.stage is Stage.COMPLETED
    tx.run(
        """UPDATE smi.submissions SET state = :state, result_url = :url, error = :error, next_poll_at = NULL,
                  finished_at = smi.now() WHERE submission_id = :id""",
        id=row["submission_id"],
        state="completed" if completed else "failed",
        url=reply.result_url,
        error=(reply.error or "")[:500] or None,
    )
    moved = _hand_to_fulfilment(tx, row, completed) if completed or not _another_open(tx, row) else 0
    event = "upscaled" if completed else "upscale_failed"
    if completed and not moved:
        event = "late_success"
    tx.event(
        row["job_id"], event, actor=actor, submission=row["submission_id"], credits=reply.credits, error=reply.error
    )
    return "ready" if moved else "settled"


def _time_out(tx: Transaction, row, actor: str) -> str:
    # Looked at for three hours more (as long as result URLs live), so that late credits are booked.
    tx.run(
        """UPDATE smi.submissions SET state = 'timed_out',
                  finished_at = coalesce(finished_at, smi.now()),
                  next_poll_at = CASE WHEN created_at > smi.now() - interval '3 hours'
                                      THEN smi.now() + interval '15 minutes' END
           WHERE submission_id = :id""",
        id=row["submission_id"],
    )
    if row["state"] == "timed_out":
        return "settled"
    tx.event(row["job_id"], "upscale_timed_out", actor=actor, submission=row["submission_id"])
    moved = 0 if _another_open(tx, row) else _hand_to_fulfilment(tx, row, False)
    return "ready" if moved else "settled"


def _another_open(tx: Transaction, row) -> bool:
    """Whether another call of the round may still succeed: then nothing is decided yet. One at a time looks."""
    tx.run("SELECT FROM smi.upscale_jobs WHERE job_id = :job_id FOR UPDATE", job_id=row["job_id"])
    return bool(
        tx.value(
            f"SELECT 1 FROM smi.submissions WHERE job_id = :job_id AND round = :round AND {_CALL_OPEN} LIMIT 1",
            job_id=row["job_id"],
            round=row["round"],
        )
    )


def _hand_to_fulfilment(tx: Transaction, row, completed: bool) -> int:
    return tx.run(
        f"""UPDATE smi.upscale_jobs j SET queue = 'fulfil', next_attempt_at = smi.now(), attempts = 0,
                stage = :stage, lease_id = NULL, lease_until = NULL,
                result_ready_at = CASE WHEN :completed THEN smi.now() ELSE result_ready_at END
            WHERE job_id = :job_id AND round = :round AND queue IS DISTINCT FROM 'fulfil' AND {_JOB_OPEN}""",
        job_id=row["job_id"],
        round=row["round"],
        stage="completed" if completed else "failed",
        completed=completed,
    )
