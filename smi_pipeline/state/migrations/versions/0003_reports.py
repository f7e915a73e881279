"""The reports by day, week and month, the money that belongs to no paid job, and Stripe's own bookings.

All of it can be built from the state again. Analysts read the views of the schema `analytics`, whose names and columns
stay when tables change.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

DAY = ("day", "date NOT NULL", "UTC day on which the upscale job was paid.")
PERIOD = (
    "period",
    "text NOT NULL CHECK (period IN ('day', 'week', 'month'))",
    "Length of the period; each is calculated from the facts, never from shorter periods.",
)
STARTS_ON = ("starts_on", "date NOT NULL", "First UTC day of the period; weeks start on Monday.")
RESOLUTION = ("resolution", "text NOT NULL", "What was bought, 4x or 8x; 'all' sums them up.")
PERIODS = "period, starts_on"

MONEY = [
    ("received_cents", "integer NOT NULL", "Payments received, doubled ones included, cents."),
    ("stripe_fee_cents", "integer NOT NULL", "What Stripe keeps of them, refunded or not, cents."),
    ("stripe_fee_known", "boolean NOT NULL", "True: by Stripe's balance transactions; false: estimated by rate."),
    ("refunded_cents", "integer NOT NULL", "Refunds that succeeded or are pending, cents."),
    (
        "disputed_cents",
        "integer NOT NULL",
        "Taken back by the bank, cents: what Stripe has booked for disputes; until it is known, what a lost one takes.",
    ),
    ("dispute_fee_cents", "integer NOT NULL", "What Stripe has charged for disputes, cents."),
    (
        "net_margin_cents",
        "integer NOT NULL",
        "received - refunded - disputed - stripe fee - dispute fee - api cost, cents; negative: money was lost.",
    ),
]
CREDITS = [
    ("submissions", "integer NOT NULL", "Calls to Upsampler whose fate is known or awaited."),
    ("credits", "integer NOT NULL", "Credits Upsampler took, by its own word, wasted attempts included."),
    ("credits_assumed", "integer NOT NULL", "Credits it may have taken for calls whose answer was lost."),
    ("api_cost_cents", "integer NOT NULL", "(credits + credits_assumed) x price of a credit, rounded up, cents."),
]
INTERVAL = [
    ("rate_low", "double precision", "Lower end of its 95 % Wilson interval."),
    ("rate_high", "double precision", "Upper end of its 95 % Wilson interval."),
]

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
            *CREDITS,
            (
                "credits_wasted",
                "integer NOT NULL",
                "Of credits and credits_assumed, those that brought nothing to the customer: all of a job that is not "
                "delivered or open, and of others those of attempts that did not complete.",
            ),
            ("currency", "text NOT NULL", "ISO 4217 code of the payment, lower case."),
            ("price_cents", "integer NOT NULL", "Price the customer was asked for, cents."),
            *MONEY,
            ("rating", "integer", "Stars the customer gave, 1 to 5; empty: none."),
        ],
        "day, job_id",
    ),
    "other_money": (
        "Money and credits that belong to no paid job: payments without a job or in another currency than the job's, "
        "and upscales given as a gift. With job_facts it is all that Stripe has booked for this shop.",
        [
            ("day", "date NOT NULL", "UTC day of the payment, or of the call to Upsampler."),
            ("subject", "text NOT NULL", "The PaymentIntent, or the upscale job that was a gift."),
            ("kind", "text NOT NULL CHECK (kind IN ('payment', 'gift'))", "payment: nobody's order; gift: never paid."),
            ("currency", "text NOT NULL", "ISO 4217 code, lower case."),
            *CREDITS,
            *MONEY,
        ],
        "day, subject",
    ),
    "day_sums": (
        "Both facts of a day summed up by how the upscale jobs ended: what can be added up, once, for all reports.",
        [
            DAY,
            ("currency", "text NOT NULL", "ISO 4217 code, lower case."),
            ("resolution", "text NOT NULL", "4x or 8x; 'none': other_money."),
            ("outcome", "text NOT NULL", "As in job_facts; of other_money its kind."),
            ("reason", "text", "As in job_facts."),
            ("rating", "integer", "As in job_facts."),
            ("jobs", "bigint NOT NULL", "Rows of the facts."),
            ("jobs_at_a_loss", "bigint NOT NULL", "Of these, upscale jobs whose net margin is below zero."),
            ("received_cents", "bigint NOT NULL", "Sum, cents."),
            ("refunded_cents", "bigint NOT NULL", "Sum, cents."),
            ("disputed_cents", "bigint NOT NULL", "Sum, cents."),
            ("stripe_fee_cents", "bigint NOT NULL", "Sum, fees of disputes included, cents."),
            ("api_cost_cents", "bigint NOT NULL", "Sum, cents."),
            ("net_margin_cents", "bigint NOT NULL", "Sum, cents."),
            ("credits", "bigint NOT NULL", "Sum."),
            ("credits_assumed", "bigint NOT NULL", "Sum."),
            ("credits_wasted", "bigint NOT NULL", "Sum."),
        ],
        "",
    ),
    "completion_rate": (
        "Share of paid upscale jobs that were delivered. A period without paid jobs has no row.",
        [
            PERIOD,
            STARTS_ON,
            RESOLUTION,
            ("paid_jobs", "integer NOT NULL", "Upscale jobs paid in the period: delivered + refunded + failed + open."),
            ("delivered", "integer NOT NULL", "Of these, delivered."),
            ("refunded", "integer NOT NULL", "Of these, paid back instead."),
            ("failed", "integer NOT NULL", "Of these, failed with a refund that has not succeeded yet."),
            ("open_jobs", "integer NOT NULL", "Of these, not decided yet; they do not count in the rate."),
            (
                "completion_rate",
                "double precision",
                "delivered / (delivered + refunded + failed), 0 to 1; empty: none is decided.",
            ),
            *INTERVAL,
        ],
        f"{PERIODS}, resolution",
    ),
    "error_rate": (
        "Why paid upscale jobs were not delivered. Without such jobs a period has no row.",
        [
            PERIOD,
            STARTS_ON,
            ("reason", "text NOT NULL", "Reason code (core/reasons.py); 'all' sums them up."),
            ("jobs", "integer NOT NULL", "Refunded or failed upscale jobs with this reason."),
            ("decided_jobs", "integer NOT NULL", "All decided jobs of the period: delivered + refunded + failed."),
            ("error_rate", "double precision NOT NULL", "jobs / decided_jobs, 0 to 1."),
            *INTERVAL,
        ],
        f"{PERIODS}, reason",
    ),
    "processing_times": (
        "How long each stage took. A stage that no job of the period has passed has no row.",
        [
            PERIOD,
            STARTS_ON,
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
            ("within_15_minutes", "double precision NOT NULL", "Share of the jobs that took at most 900 s, 0 to 1."),
        ],
        f"{PERIODS}, resolution, stage",
    ),
    "profit_margin": (
        "What the jobs of a period earned and cost; currencies are never added up.",
        [
            PERIOD,
            STARTS_ON,
            ("currency", "text NOT NULL", "ISO 4217 code of the payments, lower case."),
            (
                "resolution",
                "text NOT NULL",
                "What was bought, 4x or 8x; 'none': money and credits of no paid job (other_money); 'all' sums all up.",
            ),
            ("paid_jobs", "integer NOT NULL", "Upscale jobs paid in the period."),
            ("revenue_cents", "bigint NOT NULL", "All payments received, cents."),
            ("refunds_cents", "bigint NOT NULL", "Refunds that succeeded or are pending, cents."),
            ("disputes_cents", "bigint NOT NULL", "Taken back by banks after disputes, cents."),
            ("stripe_fees_cents", "bigint NOT NULL", "What Stripe keeps, for payments and for disputes, cents."),
            ("api_cost_cents", "bigint NOT NULL", "What Upsampler takes for the credits, cents."),
            ("net_margin_cents", "bigint NOT NULL", "revenue - refunds - disputes - stripe fees - api cost, cents."),
            ("margin_percent", "numeric(12,1)", "net margin / revenue x 100; empty: nothing was received."),
            ("jobs_at_a_loss", "integer NOT NULL", "Upscale jobs whose own net margin is below zero."),
        ],
        f"{PERIODS}, currency, resolution",
    ),
    "credit_usage": (
        "Credits by the day of the payment (of a gift: of the call). The month's budget is in the rows of months.",
        [
            PERIOD,
            STARTS_ON,
            ("resolution", "text NOT NULL", "What was bought, 4x or 8x; 'none': gifts; 'all' sums all up."),
            ("jobs", "integer NOT NULL", "Upscale jobs, paid or given."),
            ("credits", "bigint NOT NULL", "Credits Upsampler took, by its own word."),
            ("credits_assumed", "bigint NOT NULL", "Credits it may have taken for calls whose answer was lost."),
            ("credits_wasted", "bigint NOT NULL", "Of both, those that brought nothing to a customer."),
            ("api_cost_cents", "bigint NOT NULL", "What they cost, cents; rounded up job by job."),
            ("budget_credits", "bigint", "SMI_MONTHLY_CREDIT_BUDGET when the row was built; 'all' of a month alone."),
            ("budget_used", "double precision", "(credits + credits_assumed) / budget_credits, 0 to 1 and more."),
            (
                "forecast_credits",
                "bigint",
                "credits + credits_assumed at the end of the month if the days to come are like the mean of those up "
                "to today, today counted as a whole day; 'all' of a month alone.",
            ),
            (
                "runs_out_on",
                "date",
                "Day on which the budget is used up: the real one if it is past, else by the same mean; empty: it "
                "lasts to the end of the month, or there is none.",
            ),
        ],
        f"{PERIODS}, resolution",
    ),
    "customer_satisfaction": (
        "Stars of the customers whose upscale was delivered. A period without deliveries has no row.",
        [
            PERIOD,
            STARTS_ON,
            RESOLUTION,
            ("delivered", "integer NOT NULL", "Delivered upscale jobs: each mail asks for a rating."),
            ("ratings", "integer NOT NULL", "Of these, rated."),
            ("response_rate", "double precision NOT NULL", "ratings / delivered, 0 to 1."),
            ("mean_stars", "double precision", "Mean of the ratings, 1 to 5; empty: none."),
            *((f"stars_{n}", "integer NOT NULL", f"Ratings of {n} star{'s'[: n > 1]}.") for n in range(1, 6)),
        ],
        f"{PERIODS}, resolution",
    ),
    "builds": (
        "When each table was last built for a period; it is out of date while its facts are not the newest ones.",
        [
            ("report", "text NOT NULL", "Name of the table."),
            PERIOD,
            STARTS_ON,
            ("built_at", "timestamptz NOT NULL", "When it was built."),
            ("facts_built_at", "timestamptz NOT NULL", "When the newest facts that it was built from were built."),
            ("row_count", "integer NOT NULL", "Its rows; 0: no paid jobs."),
        ],
        f"report, {PERIODS}",
    ),
    "changes": (
        "What has changed since the facts of its day were last built. Emptied by building the day.",
        [
            ("change_id", "bigint GENERATED ALWAYS AS IDENTITY", "Order of arrival."),
            ("day", "date NOT NULL", "Day whose facts are out of date."),
            ("job_id", "text", "The upscale job, or the PaymentIntent of a payment without one."),
            ("at", "timestamptz NOT NULL DEFAULT smi.now()", "When it changed."),
        ],
        "change_id",
    ),
    "stripe_bookings": (
        "Stripe's balance transactions of payments, refunds and disputes, as they were read; they never change.",
        [
            ("booking_id", "text NOT NULL", "Stripe's id, txn_…"),
            ("created_at", "timestamptz NOT NULL", "When Stripe booked it."),
            ("source_id", "text NOT NULL", "The charge, refund or dispute."),
            ("kind", "text NOT NULL CHECK (kind IN ('charge', 'refund', 'dispute'))", "What it was booked for."),
            ("payment_intent_id", "text NOT NULL", "The payment that it belongs to."),
            ("amount_cents", "integer NOT NULL", "On the balance, negative: off it; before the fee; cents."),
            ("fee_cents", "integer NOT NULL", "Taken off besides, cents."),
            ("currency", "text NOT NULL", "ISO 4217 code of the balance, lower case."),
        ],
        "booking_id",
    ),
}

REPORTS = [name for name, (_, columns, _) in TABLES.items() if columns[0] is PERIOD]

FACTS_OF_JOBS = """paid_at, status, resolution, scale, source_width, source_height, price_cents, currency,
    expected_credits, payment_intent_id, submitted_at, result_ready_at, completed_at, reason_code"""

# table: the columns that the facts depend on
FACTS_OF_OTHERS = {
    "submissions": "state, credits",
    "payments": "job_id, role, received_cents, currency, fee_cents, dispute",
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
CREATE FUNCTION reports.note_submission() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO reports.changes (day, job_id) -- a gift counts on the day of the call
    SELECT (coalesce(paid_at, NEW.created_at) AT TIME ZONE 'UTC')::date, job_id FROM smi.upscale_jobs
    WHERE job_id = NEW.job_id;
    RETURN NULL;
END $$;
CREATE FUNCTION reports.note_payment_of(payment_intent text) RETURNS void LANGUAGE sql AS $$
    -- the day of its job, and, where it may belong to no job, its own
    INSERT INTO reports.changes (day, job_id)
    SELECT DISTINCT (moment AT TIME ZONE 'UTC')::date, coalesce(j.job_id, payment_intent)
    FROM smi.payments p LEFT JOIN smi.upscale_jobs j USING (job_id)
    CROSS JOIN LATERAL (VALUES (j.paid_at), (CASE WHEN p.role <> 'order' AND (
        j.paid_at IS NULL OR p.currency <> coalesce(
            (SELECT o.currency FROM smi.payments o WHERE o.payment_intent_id = j.payment_intent_id), j.currency))
        THEN coalesce(p.paid_at, p.learned_at) END)) AS moments (moment)
    WHERE p.payment_intent_id = payment_intent AND moment IS NOT NULL
$$;
CREATE FUNCTION reports.note_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reports.note_payment_of(NEW.payment_intent_id);
    IF TG_OP = 'UPDATE' AND OLD.job_id IS NULL AND NEW.job_id IS NOT NULL THEN -- the day it has left
        INSERT INTO reports.changes (day, job_id)
        VALUES ((coalesce(OLD.paid_at, OLD.learned_at) AT TIME ZONE 'UTC')::date, NEW.payment_intent_id);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION reports.note_refund() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reports.note_payment_of(NEW.payment_intent_id);
    RETURN NULL;
END $$;
CREATE FUNCTION reports.note_booking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- most bookings only confirm what the payment has said already
    IF (NEW.kind = 'dispute' OR NEW.fee_cents <> CASE NEW.kind WHEN 'charge' THEN coalesce(
        (SELECT fee_cents FROM smi.payments WHERE payment_intent_id = NEW.payment_intent_id), -1) ELSE 0 END) THEN
        PERFORM reports.note_payment_of(NEW.payment_intent_id);
    END IF;
    RETURN NULL;
END $$;
"""

NOTED_BY = {"submissions": "note_submission", "payments": "note_payment", "refunds": "note_refund"}

INDEXES = """
CREATE INDEX day_sums_day ON reports.day_sums (day);
CREATE INDEX changes_day ON reports.changes (day, job_id);
CREATE INDEX stripe_bookings_payment ON reports.stripe_bookings (payment_intent_id);
CREATE INDEX stripe_bookings_created ON reports.stripe_bookings (created_at);
CREATE INDEX stripe_bookings_special ON reports.stripe_bookings (payment_intent_id)
    WHERE kind <> 'charge' AND (kind = 'dispute' OR fee_cents <> 0);
CREATE INDEX payments_outside ON smi.payments (coalesce(paid_at, learned_at)) WHERE role <> 'order';
CREATE INDEX upscale_jobs_gifts ON smi.upscale_jobs (job_id) WHERE paid_at IS NULL AND admin_override;
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


def _view(name: str, comment: str, columns: list[tuple[str, str]], query: str) -> None:
    op.execute(f"CREATE VIEW analytics.{name} AS {query}")
    op.execute(f"COMMENT ON VIEW analytics.{name} IS {_quoted(comment)}")
    for column, text in columns:
        op.execute(f"COMMENT ON COLUMN analytics.{name}.{column} IS {_quoted(text)}")


def _views() -> None:
    op.execute("CREATE SCHEMA analytics")
    op.execute(
        "COMMENT ON SCHEMA analytics IS 'For analysts and BI tools: names and columns stay. Read docs/analysts.md.'"
    )
    for table, view in (("job_facts", "jobs"), ("other_money", "other_money")):
        comment, columns, _ = TABLES[table]
        _view(view, comment, [(name, text) for name, _, text in columns], f"SELECT * FROM reports.{table}")
    comment, columns, _ = TABLES["job_facts"]
    _view(
        "jobs_at_a_loss",
        "The paid upscale jobs whose own net margin is below zero.",
        [(name, text) for name, _, text in columns],
        "SELECT * FROM reports.job_facts WHERE net_margin_cents < 0",
    )
    for table in REPORTS:
        comment, columns, _ = TABLES[table]
        for period, adverb in (("day", "daily"), ("week", "weekly"), ("month", "monthly")):
            shown = [(name, text) for name, _, text in columns[2:] if period == "month" or name not in BUDGET]
            names = ", ".join(name for name, _ in shown)
            _view(
                f"{table}_{adverb}",
                comment,
                [(period, f"First UTC day of the {period}." if period != "day" else "UTC day."), *shown],
                f"SELECT starts_on AS {period}, {names} FROM reports.{table} WHERE period = '{period}'",
            )


BUDGET = ("budget_credits", "budget_used", "forecast_credits", "runs_out_on")


def upgrade() -> None:
    """Create the schemas of the reports and of analysts."""
    op.execute("CREATE SCHEMA reports")
    op.execute("COMMENT ON SCHEMA reports IS 'Facts and reports, rebuilt from the state (schema smi) by Dagster.'")
    for table, (comment, columns, key) in TABLES.items():
        body = ", ".join(f"{name} {kind}" for name, kind, _ in columns)
        op.execute(f"CREATE TABLE reports.{table} ({body}{key and f', PRIMARY KEY ({key})'})")
        op.execute(f"COMMENT ON TABLE reports.{table} IS {_quoted(comment)}")
        for name, _, text in columns:
            op.execute(f"COMMENT ON COLUMN reports.{table}.{name} IS {_quoted(text)}")
    op.execute(INDEXES)
    op.execute(FUNCTIONS)
    op.execute(_triggers("upscale_jobs", "note_job", FACTS_OF_JOBS))
    for table, watched in FACTS_OF_OTHERS.items():
        op.execute(_triggers(table, NOTED_BY.get(table, "note_other"), watched))
    op.execute(
        "CREATE TRIGGER noted AFTER INSERT ON reports.stripe_bookings FOR EACH ROW "
        "EXECUTE FUNCTION reports.note_booking()"
    )
    _views()
    # Whatever was paid before this revision has no facts yet.
    op.execute(
        """INSERT INTO reports.changes (day, job_id)
           SELECT (paid_at AT TIME ZONE 'UTC')::date, job_id FROM smi.upscale_jobs WHERE paid_at IS NOT NULL
           UNION ALL
           SELECT (coalesce(paid_at, learned_at) AT TIME ZONE 'UTC')::date, payment_intent_id FROM smi.payments
           WHERE job_id IS NULL
           UNION ALL
           SELECT (s.created_at AT TIME ZONE 'UTC')::date, job_id FROM smi.submissions s JOIN smi.upscale_jobs j
           USING (job_id) WHERE j.paid_at IS NULL"""
    )


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP SCHEMA analytics CASCADE")
    op.execute("DROP INDEX smi.payments_outside; DROP INDEX smi.upscale_jobs_gifts")
    for table in ("upscale_jobs", *FACTS_OF_OTHERS):
        op.execute(f"DROP TRIGGER reports_inserted ON smi.{table}; DROP TRIGGER reports_updated ON smi.{table}")
    op.execute("DROP SCHEMA reports CASCADE")
