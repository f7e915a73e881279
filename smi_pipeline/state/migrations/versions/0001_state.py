"""The tables of the state: jobs, leases, submissions, payments, refunds, mails, tokens, limits."""

from alembic import op

revision = "0001"
down_revision = None

LEASE_COLUMNS = """
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    lease_id        text,
    lease_until     timestamptz,
    last_error      text,
"""

TABLES = f"""
CREATE SCHEMA smi;

CREATE TABLE smi.clock (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    shift    interval NOT NULL DEFAULT '0'
);
INSERT INTO smi.clock DEFAULT VALUES;
CREATE FUNCTION smi.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$ SELECT clock_timestamp() + shift FROM smi.clock $$;
COMMENT ON FUNCTION smi.now() IS 'The one clock of the state; tests shift it through smi.clock.';

CREATE TABLE smi.upscale_jobs (
    job_id              text PRIMARY KEY CHECK (job_id ~ '^[0-9a-f]{{32}}$'),
    created_at          timestamptz NOT NULL DEFAULT smi.now(),
    updated_at          timestamptz NOT NULL DEFAULT smi.now(),
    status              text NOT NULL DEFAULT 'awaiting_payment' CHECK (status IN
        ('awaiting_payment', 'pending', 'processing', 'completed', 'failed', 'refunded', 'abandoned')),
    round               integer NOT NULL DEFAULT 1,
    queue               text CHECK (queue IN ('submit', 'fulfil')),
    {LEASE_COLUMNS}
    hold_reason         text,
    held_at             timestamptz,
    -- what was ordered
    source_url          text NOT NULL,
    file_name           text NOT NULL,
    resolution          text NOT NULL CHECK (resolution IN ('4x', '8x')),
    scale               integer NOT NULL CHECK (scale IN (4, 8)),
    customer_email      text NOT NULL,
    customer_name       text,
    source_format       text NOT NULL,
    source_width        integer NOT NULL CHECK (source_width > 0),
    source_height       integer NOT NULL CHECK (source_height > 0),
    source_bytes        bigint NOT NULL CHECK (source_bytes > 0),
    source_sha256       text NOT NULL,
    source_key          text,
    -- money
    price_cents         integer NOT NULL CHECK (price_cents > 0),
    currency            text NOT NULL,
    expected_credits    integer NOT NULL,
    checkout_session_id text UNIQUE,
    checkout_expires_at timestamptz,
    payment_intent_id   text UNIQUE,
    -- clocks
    paid_at             timestamptz,
    learned_at          timestamptz,
    start_by            timestamptz,
    processing_at       timestamptz,
    submitted_at        timestamptz,
    deadline_at         timestamptz,
    result_ready_at     timestamptz,
    completed_at        timestamptz,
    failed_at           timestamptz,
    expected_seconds    double precision,
    -- result
    stage               text CHECK (stage IN ('queued', 'processing', 'completed', 'failed')),
    estimated_completion timestamptz,
    result_key          text,
    result_sha256       text,
    result_bytes        bigint,
    result_width        integer,
    result_height       integer,
    result_format       text,
    min_ssim            double precision,
    mean_colour_shift   double precision,
    reason_code         text,
    reason_text         text,
    admin_override      boolean NOT NULL DEFAULT false,
    files_removed_at    timestamptz,
    imported_from       text
);
CREATE INDEX upscale_jobs_due ON smi.upscale_jobs (queue, next_attempt_at) WHERE queue IS NOT NULL;
CREATE INDEX upscale_jobs_leased ON smi.upscale_jobs (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX upscale_jobs_status ON smi.upscale_jobs (status, created_at);
CREATE INDEX upscale_jobs_paid ON smi.upscale_jobs (paid_at) WHERE paid_at IS NOT NULL;
CREATE INDEX upscale_jobs_changed ON smi.upscale_jobs (updated_at);

CREATE FUNCTION smi.check_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (
        ('awaiting_payment', 'pending'), ('awaiting_payment', 'abandoned'), ('awaiting_payment', 'failed'),
        ('abandoned', 'pending'),
        ('pending', 'processing'), ('pending', 'failed'),
        ('processing', 'completed'), ('processing', 'failed'), ('processing', 'pending'),
        ('completed', 'pending'),
        ('failed', 'refunded'), ('failed', 'pending'),
        ('refunded', 'pending'))
    THEN
        RAISE EXCEPTION 'upscale job % cannot go from % to %', OLD.job_id, OLD.status, NEW.status;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER upscale_jobs_step BEFORE UPDATE OF status ON smi.upscale_jobs
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION smi.check_step();
CREATE FUNCTION smi.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.updated_at := smi.now(); RETURN NEW; END $$;
CREATE TRIGGER upscale_jobs_touch BEFORE UPDATE ON smi.upscale_jobs
    FOR EACH ROW EXECUTE FUNCTION smi.touch();

CREATE TABLE smi.job_events (
    event_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id      text REFERENCES smi.upscale_jobs,
    at          timestamptz NOT NULL DEFAULT smi.now(),
    event       text NOT NULL,
    from_status text,
    to_status   text,
    actor       text NOT NULL,
    details     jsonb NOT NULL DEFAULT '{{}}'
);
CREATE INDEX job_events_job ON smi.job_events (job_id, event_id);

CREATE TABLE smi.submissions (
    submission_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id        text NOT NULL REFERENCES smi.upscale_jobs,
    round         integer NOT NULL,
    state         text NOT NULL DEFAULT 'sending' CHECK (state IN
        ('sending', 'accepted', 'completed', 'failed', 'rejected', 'lost', 'timed_out')),
    token_hash    text UNIQUE,
    external_id   text UNIQUE,
    created_at    timestamptz NOT NULL DEFAULT smi.now(),
    accepted_at   timestamptz,
    finished_at   timestamptz,
    next_poll_at  timestamptz,
    hinted        boolean NOT NULL DEFAULT false, -- a webhook said that there is news
    polls         integer NOT NULL DEFAULT 0,
    poll_errors   integer NOT NULL DEFAULT 0,
    deadline_at   timestamptz,
    result_url    text,
    credits       integer,
    error         text
);
CREATE UNIQUE INDEX submissions_one_open ON smi.submissions (job_id) WHERE state IN ('sending', 'accepted');
CREATE INDEX submissions_polls ON smi.submissions (next_poll_at) WHERE next_poll_at IS NOT NULL;
CREATE INDEX submissions_job ON smi.submissions (job_id);

CREATE TABLE smi.webhook_inbox (
    event_id    text PRIMARY KEY,
    type        text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT smi.now(),
    effect      text NOT NULL
);

CREATE TABLE smi.payments (
    payment_intent_id text PRIMARY KEY,
    job_id            text REFERENCES smi.upscale_jobs,
    role              text NOT NULL CHECK (role IN ('order', 'duplicate', 'mismatch', 'orphan')),
    received_cents    integer NOT NULL,
    currency          text NOT NULL,
    charge_id         text,
    fee_cents         integer,
    refunded_cents    integer NOT NULL DEFAULT 0,
    dispute           text CHECK (dispute IN ('open', 'won', 'lost')),
    paid_at           timestamptz,
    learned_at        timestamptz NOT NULL DEFAULT smi.now(),
    learned_from      text NOT NULL,
    settled_by        text
);
CREATE INDEX payments_job ON smi.payments (job_id);

CREATE TABLE smi.outcomes (
    job_id     text NOT NULL REFERENCES smi.upscale_jobs,
    round      integer NOT NULL,
    outcome    text NOT NULL CHECK (outcome IN ('deliver', 'refund', 'none')),
    reason     text,
    decided_at timestamptz NOT NULL DEFAULT smi.now(),
    actor      text NOT NULL,
    PRIMARY KEY (job_id, round)
);

CREATE TABLE smi.refunds (
    refund_row        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id            text REFERENCES smi.upscale_jobs,
    payment_intent_id text NOT NULL,
    kind              text NOT NULL CHECK (kind IN
        ('failure', 'duplicate_payment', 'wrong_amount', 'goodwill', 'unmatched', 'outside')),
    n                 integer NOT NULL,
    idempotency_key   text UNIQUE,
    state             text NOT NULL DEFAULT 'owed' CHECK (state IN
        ('owed', 'pending', 'succeeded', 'failed', 'canceled', 'not_needed')),
    amount_cents      integer,
    currency          text NOT NULL,
    stripe_refund_id  text UNIQUE,
    first_called_at   timestamptz,
    {LEASE_COLUMNS}
    reason_code       text NOT NULL,
    actor             text NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT smi.now(),
    settled_at        timestamptz,
    failure           text
);
CREATE UNIQUE INDEX refunds_one_alive ON smi.refunds (payment_intent_id)
    WHERE kind <> 'outside' AND state IN ('owed', 'pending', 'succeeded');
CREATE INDEX refunds_due ON smi.refunds (next_attempt_at) WHERE state IN ('owed', 'pending');
CREATE INDEX refunds_leased ON smi.refunds (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX refunds_job ON smi.refunds (job_id);

CREATE TABLE smi.emails (
    job_id     text NOT NULL REFERENCES smi.upscale_jobs,
    kind       text NOT NULL CHECK (kind IN ('completion', 'refund', 'duplicate_payment', 'goodwill')),
    serial     integer NOT NULL DEFAULT 1,
    message_id text NOT NULL UNIQUE,
    state      text NOT NULL DEFAULT 'claimed' CHECK (state IN ('claimed', 'handed_over', 'accepted', 'failed')),
    {LEASE_COLUMNS}
    context    jsonb NOT NULL DEFAULT '{{}}',
    content    bytea,
    hand_overs integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT smi.now(),
    handed_over_at timestamptz,
    accepted_at timestamptz,
    PRIMARY KEY (job_id, kind, serial)
);
CREATE INDEX emails_leased ON smi.emails (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX emails_due ON smi.emails (next_attempt_at) WHERE state IN ('claimed', 'handed_over');

CREATE TABLE smi.download_tokens (
    token_hash  text PRIMARY KEY,
    job_id      text NOT NULL REFERENCES smi.upscale_jobs,
    round       integer NOT NULL,
    serial      integer NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT smi.now(),
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    downloads   integer NOT NULL DEFAULT 0,
    last_download_at timestamptz,
    UNIQUE (job_id, round, serial)
);

CREATE TABLE smi.feedback (
    job_id   text PRIMARY KEY REFERENCES smi.upscale_jobs,
    score    integer NOT NULL CHECK (score BETWEEN 1 AND 5),
    comment  text CHECK (length(comment) <= 2000),
    at       timestamptz NOT NULL DEFAULT smi.now()
);

CREATE TABLE smi.api_calls (
    call_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL,
    purpose text NOT NULL
);
CREATE INDEX api_calls_at ON smi.api_calls (at);

CREATE TABLE smi.gates (
    name          text PRIMARY KEY,
    blocked_until timestamptz,
    opened_at     timestamptz,
    reason        text
);
COMMENT ON TABLE smi.gates IS 'Circuit breaker and 429 pauses of outside services, shared by all processes.';

CREATE TABLE smi.person_tasks (
    task_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL,
    subject         text NOT NULL,
    job_id          text REFERENCES smi.upscale_jobs,
    message         text NOT NULL,
    next_step       text NOT NULL,
    opened_at       timestamptz NOT NULL DEFAULT smi.now(),
    alerted_at      timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    closed_at       timestamptz
);
CREATE UNIQUE INDEX person_tasks_open ON smi.person_tasks (kind, subject) WHERE closed_at IS NULL;

CREATE TABLE smi.cursors (
    name  text PRIMARY KEY,
    value text NOT NULL
);
COMMENT ON TABLE smi.cursors IS 'How far a reading of an outside list has come (Stripe events).';
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop the schema."""
    op.execute("DROP SCHEMA smi CASCADE")
