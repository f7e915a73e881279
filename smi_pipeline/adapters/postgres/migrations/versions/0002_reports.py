"""The tables of the reports, every column with its comment, and the log of upscale jobs whose facts have changed.

The log is written by triggers, in the transaction that changes the state, and only for what the facts show: a lease
or a poll is no news. It is append-only, so that a rebuild never makes fulfilment wait.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

DAY = ("day", "date NOT NULL", "UTC day on which the upscale job was paid.")
RESOLUTION = ("resolution", "text NOT NULL", "What was bought, 4x or 8x; 'all' sums up the day.")

# table: (comment, columns (name, type, comment), key)
TABLES: dict[str, tuple[str, list[tuple[str, str, str]], str]] = {
    "job_facts": (
        "One row per paid upscale job. A day is replaced as a whole; figures of open jobs are 'so far'.",
        [
            DAY,
            ("job_id", "text NOT NULL", "The upscale job, 32 hexadecimal digits."),
            ("resolution", "text NOT NULL", "What was bought: 4x or 8x."),
            ("megapixels", "numeric(12,6) NOT NULL", "Size of the result that was bought, in millions of pixels."),
            (
                "outcome",
                "text NOT NULL CHECK (outcome IN ('delivered', 'refunded', 'failed', 'open'))",
                "delivered: the customer got the file (once delivered, always delivered); refunded: the money is back "
                "instead; failed: decided against, the refund has not succeeded yet; open: not decided yet.",
            ),
            (
                "reason",
                "text",
                "Why it was not delivered, as a code (core/reasons.py); empty unless refunded or failed.",
            ),
            ("paid_to_submitted", "double precision", "Seconds from the payment until Upsampler accepted the image."),
            (
                "submitted_to_ready",
                "double precision",
                "Seconds from Upsampler's acceptance until its result was known.",
            ),
            (
                "ready_to_delivered",
                "double precision",
                "Seconds from the known result until the checked file was ready.",
            ),
            ("delivered_to_mailed", "double precision", "Seconds from delivery until the mail server took the mail."),
            (
                "paid_to_mailed",
                "double precision",
                "Seconds in total: from the payment until the mail server took the closing mail (with the link, or "
                "telling of the refund).",
            ),
            ("submissions", "integer NOT NULL", "Calls to Upsampler whose fate is known or awaited."),
            ("credits", "integer NOT NULL", "Credits Upsampler took, by its own word, wasted attempts included."),
            ("credits_assumed", "integer NOT NULL", "Credits it may have taken for calls whose answer was lost."),
            (
                "api_cost_cents",
                "integer NOT NULL",
                "(credits + credits_assumed) x price of a credit, rounded up, cents.",
            ),
            ("currency", "text NOT NULL", "ISO 4217 code of the payment, lower case."),
            ("price_cents", "integer NOT NULL", "Price the customer was asked for, cents."),
            ("received_cents", "integer NOT NULL", "All payments received for the job, doubled ones included, cents."),
            ("stripe_fee_cents", "integer NOT NULL", "What Stripe keeps of them, refunded or not, cents."),
            (
                "stripe_fee_known",
                "boolean NOT NULL",
                "True: by Stripe's balance transactions; false: estimated by rate.",
            ),
            ("refunded_cents", "integer NOT NULL", "Refunds that succeeded or are pending, cents."),
            ("disputed_cents", "integer NOT NULL", "Taken back by the bank after a lost dispute, cents."),
            (
                "net_margin_cents",
                "integer NOT NULL",
                "received - refunded - disputed - stripe fee - api cost, cents; negative: the job lost money.",
            ),
            ("rating", "integer", "Stars the customer gave, 1 to 5; empty: none."),
        ],
        "day, job_id",
    ),
    "completion_rate": (
        "Share of paid upscale jobs that were delivered, per day and resolution. A day without paid jobs has no row.",
        [
            DAY,
            RESOLUTION,
            ("paid_jobs", "integer NOT NULL", "Upscale jobs paid on this day: delivered + refunded + failed + open."),
            ("delivered", "integer NOT NULL", "Of these, delivered."),
            ("refunded", "integer NOT NULL", "Of these, paid back instead."),
            ("failed", "integer NOT NULL", "Of these, failed with a refund that has not succeeded yet."),
            ("open_jobs", "integer NOT NULL", "Of these, not decided yet; they do not count in the rate."),
            (
                "completion_rate",
                "double precision",
                "delivered / (delivered + refunded + failed), 0 to 1; empty: none is decided.",
            ),
            ("rate_low", "double precision", "Lower end of its 95 % Wilson interval."),
            ("rate_high", "double precision", "Upper end of its 95 % Wilson interval."),
        ],
        "day, resolution",
    ),
    "processing_times": (
        "How long each stage took, per day and resolution. A stage that no job of the day has passed has no row.",
        [
            DAY,
            RESOLUTION,
            (
                "stage",
                "text NOT NULL",
                "paid_to_submitted, submitted_to_ready, ready_to_delivered, delivered_to_mailed, or paid_to_mailed: "
                "the whole, refunds included.",
            ),
            ("jobs", "integer NOT NULL", "Upscale jobs that have passed this stage."),
            ("mean_seconds", "double precision NOT NULL", "Mean, seconds."),
            (
                "p50_seconds",
                "double precision NOT NULL",
                "Half of the jobs took at most so many seconds (interpolated).",
            ),
            ("p90_seconds", "double precision NOT NULL", "90 % took at most so many seconds (interpolated)."),
            ("p95_seconds", "double precision NOT NULL", "95 % took at most so many seconds (interpolated)."),
            ("p99_seconds", "double precision NOT NULL", "99 % took at most so many seconds (interpolated)."),
            ("max_seconds", "double precision NOT NULL", "The slowest, seconds."),
        ],
        "day, resolution, stage",
    ),
    "profit_margin": (
        "What the jobs of a day earned and cost, per currency and resolution; currencies are never added up.",
        [
            DAY,
            ("currency", "text NOT NULL", "ISO 4217 code of the payments, lower case."),
            RESOLUTION,
            ("paid_jobs", "integer NOT NULL", "Upscale jobs paid on this day."),
            ("revenue_cents", "bigint NOT NULL", "All payments received for them, cents."),
            ("refunds_cents", "bigint NOT NULL", "Refunds that succeeded or are pending, and lost disputes, cents."),
            ("stripe_fees_cents", "bigint NOT NULL", "What Stripe keeps, refunded or not, cents."),
            ("api_cost_cents", "bigint NOT NULL", "What Upsampler takes for their credits, cents."),
            ("net_margin_cents", "bigint NOT NULL", "revenue - refunds - stripe fees - api cost, cents."),
            ("margin_percent", "numeric(12,1)", "net margin / revenue x 100; empty: nothing was received."),
            ("credits", "bigint NOT NULL", "Credits, known and assumed."),
            ("jobs_at_a_loss", "integer NOT NULL", "Upscale jobs whose own net margin is below zero."),
        ],
        "day, currency, resolution",
    ),
    "builds": (
        "When each table was last built for a day; a table is out of date while its facts are not the newest ones.",
        [
            ("report", "text NOT NULL", "Name of the table."),
            ("day", "date NOT NULL", "The day."),
            ("built_at", "timestamptz NOT NULL", "When it was built."),
            ("facts_built_at", "timestamptz NOT NULL", "When the facts that it was built from were built."),
            ("row_count", "integer NOT NULL", "Rows of this day; 0: no paid jobs."),
        ],
        "report, day",
    ),
    "changes": (
        "Upscale jobs whose facts have changed since their day was last built. Emptied by building the day.",
        [
            ("change_id", "bigint GENERATED ALWAYS AS IDENTITY", "Order of arrival."),
            ("day", "date NOT NULL", "Day whose facts are out of date."),
            ("job_id", "text NOT NULL", "The upscale job."),
            ("at", "timestamptz NOT NULL DEFAULT smi.now()", "When it changed."),
        ],
        "change_id",
    ),
}

FACTS_OF_JOBS = """paid_at, status, resolution, scale, source_width, source_height, price_cents, currency,
    expected_credits, payment_intent_id, submitted_at, result_ready_at, completed_at, reason_code"""

# table: the columns that the facts depend on
FACTS_OF_OTHERS = {
    "submissions": "state, credits",
    "payments": "job_id, received_cents, currency, fee_cents, dispute",
    "refunds": "state, amount_cents",
    "emails": "accepted_at",
    "feedback": "score",
}

FUNCTIONS = """
CREATE FUNCTION reports.note_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO reports.changes (day, job_id)
    SELECT DISTINCT (paid_at AT TIME ZONE 'UTC')::date, NEW.job_id
    FROM (VALUES (NEW.paid_at), (CASE WHEN TG_OP = 'UPDATE' THEN OLD.paid_at END)) AS moments (paid_at)
    WHERE paid_at IS NOT NULL;
    RETURN NULL;
END $$;
CREATE FUNCTION reports.note_other() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO reports.changes (day, job_id)
    SELECT (paid_at AT TIME ZONE 'UTC')::date, job_id FROM smi.upscale_jobs
    WHERE job_id = NEW.job_id AND paid_at IS NOT NULL;
    RETURN NULL;
END $$;
"""


def _differ(columns: str) -> str:
    old, new = (", ".join(f"{row}.{name.strip()}" for name in columns.split(",")) for row in ("OLD", "NEW"))
    return f"({old}) IS DISTINCT FROM ({new})"


def _triggers(table: str, function: str, columns: str) -> str:
    return f"""
    CREATE TRIGGER reports_inserted AFTER INSERT ON smi.{table} FOR EACH ROW EXECUTE FUNCTION reports.{function}();
    CREATE TRIGGER reports_updated AFTER UPDATE ON smi.{table} FOR EACH ROW
        WHEN ({_differ(columns)}) EXECUTE FUNCTION reports.{function}();"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def upgrade() -> None:
    op.execute("CREATE SCHEMA reports")
    op.execute("COMMENT ON SCHEMA reports IS 'Reports by day, rebuilt from the state (schema smi) by Dagster.'")
    for table, (comment, columns, key) in TABLES.items():
        body = ", ".join(f"{name} {kind}" for name, kind, _ in columns)
        op.execute(f"CREATE TABLE reports.{table} ({body}, PRIMARY KEY ({key}))")
        op.execute(f"COMMENT ON TABLE reports.{table} IS {_quoted(comment)}")
        for name, _, text in columns:
            op.execute(f"COMMENT ON COLUMN reports.{table}.{name} IS {_quoted(text)}")
    op.execute("CREATE INDEX changes_day ON reports.changes (day, job_id)")
    op.execute(FUNCTIONS)
    op.execute(_triggers("upscale_jobs", "note_job", FACTS_OF_JOBS))
    for table, watched in FACTS_OF_OTHERS.items():
        op.execute(_triggers(table, "note_other", watched))
    # Whatever was paid before this revision has no facts yet.
    op.execute(
        """INSERT INTO reports.changes (day, job_id)
           SELECT (paid_at AT TIME ZONE 'UTC')::date, job_id FROM smi.upscale_jobs WHERE paid_at IS NOT NULL"""
    )


def downgrade() -> None:
    for table in ("upscale_jobs", *FACTS_OF_OTHERS):
        op.execute(f"DROP TRIGGER reports_inserted ON smi.{table}; DROP TRIGGER reports_updated ON smi.{table}")
    op.execute("DROP SCHEMA reports CASCADE")
