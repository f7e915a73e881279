"""Define the SQL that builds the facts and the reports. The comments of the columns define the figures.

Counts and money are summed per day (`day_sums`), and from these sums exactly for every `period` (day, week, month).
Percentiles cannot be added: `percentiles` takes them from the facts.
"""

_WILSON_Z = 1.959963984540054  # two-sided 95%

# The recorded money of payments `p`, NULL where there is none.
_RECORDS = """p.received_cents, p.dispute, refunded.cents AS refunded_cents, booked.refund_fee, booked.disputed_cents,
       booked.dispute_fee_cents, coalesce(p.fee_cents, ( -- for the few whose fee came later
           SELECT c.fee_cents FROM reports.stripe_bookings c
           WHERE c.payment_intent_id = p.payment_intent_id AND c.kind = 'charge' AND c.currency = p.currency
       )) AS known_fee"""
_RECORDS_OF_PAYMENTS = """
    LEFT JOIN refunded ON refunded.payment_intent_id = p.payment_intent_id AND refunded.currency = p.currency
    LEFT JOIN booked ON booked.payment_intent_id = p.payment_intent_id AND booked.currency = p.currency"""

# Few payments have such records: summed once for all statements.
SUM_RECORDS = """
CREATE TEMP TABLE refunded ON COMMIT DROP AS
    SELECT payment_intent_id, currency, sum(amount_cents) AS cents FROM smi.refunds
    WHERE state IN ('pending', 'succeeded') GROUP BY payment_intent_id, currency;
CREATE TEMP TABLE booked ON COMMIT DROP AS
    SELECT payment_intent_id, currency, coalesce(sum(fee_cents) FILTER (WHERE kind = 'refund'), 0) AS refund_fee,
           -sum(amount_cents) FILTER (WHERE kind = 'dispute') AS disputed_cents,
           sum(fee_cents) FILTER (WHERE kind = 'dispute') AS dispute_fee_cents
    FROM reports.stripe_bookings WHERE kind <> 'charge' AND (kind = 'dispute' OR fee_cents <> 0)
    GROUP BY payment_intent_id, currency;
ANALYZE refunded, booked
"""

_RATE = "CAST(round({cents} * CAST(:fee_percent AS numeric) / 100) AS integer) + :fee_fixed"

# Money by these records. Stripe's share is what the payment or its booking says, `:fee_percent` and `:fee_fixed` until
# then. A lost dispute takes what is left of its payment; what Stripe has booked for it is better known.
_MONEY = {
    "received": "received_cents",
    "fee": f"""coalesce(known_fee, CASE WHEN received_cents > 0 THEN {_RATE.format(cents="received_cents")} ELSE 0 END)
               + coalesce(refund_fee, 0)""",
    "refunded": "coalesce(refunded_cents, 0)",
    "disputed": """coalesce(disputed_cents, CASE WHEN dispute = 'lost'
               THEN greatest(received_cents - coalesce(refunded_cents, 0), 0) ELSE 0 END)""",
    "dispute_fee": "coalesce(dispute_fee_cents, 0)",
}
_SUMMED_MONEY = ", ".join(f"sum({figure}) AS {name}" for name, figure in _MONEY.items()) + (
    ", bool_and(known_fee IS NOT NULL) AS fee_known"
)

# What a credit of job `j` cost when it was ordered; `:credit_cents` for those of before that was kept.
_CREDIT_CENTS = "coalesce(j.credit_cents, CAST(:credit_cents AS numeric))"

# The jobs of the days with the payment they were started for, numbered: what belongs to them is found by `job_id` once
# and from then on by number, which takes half the time. The planner must know how many there are.
PICK_JOBS = f"""
CREATE TEMP TABLE picked ON COMMIT DROP AS
SELECT CAST(row_number() OVER () AS integer) AS number, j.job_id,
       (j.paid_at AT TIME ZONE 'UTC')::date AS day, j.paid_at, j.submitted_at, j.result_ready_at, j.completed_at,
       j.status, j.resolution, (j.source_width::bigint * j.source_height * j.scale * j.scale) * 0.000001 AS megapixels,
       j.price_cents, j.expected_credits, {_CREDIT_CENTS} AS credit_cents, j.reason_code,
       j.imported_from IS NOT NULL AS imported,
       coalesce(p.currency, j.currency) AS currency, {_RECORDS}
FROM smi.upscale_jobs j
LEFT JOIN smi.payments p ON p.payment_intent_id = j.payment_intent_id AND p.job_id = j.job_id {_RECORDS_OF_PAYMENTS}
WHERE j.paid_at >= CAST(:first AS date)::timestamp AT TIME ZONE 'UTC'
  AND j.paid_at < (CAST(:last AS date) + 1)::timestamp AT TIME ZONE 'UTC'
"""


def _with_others(name: str, otherwise: str) -> str:
    """Return a sum over a job's first payment `j` and the others `o`; imported jobs have neither."""
    return f"""CASE WHEN j.received_cents IS NOT NULL THEN {_MONEY[name]} + coalesce(o.{name}, 0)
            ELSE coalesce(o.{name}, {otherwise}) END AS {name}"""


INSERT_JOB_FACTS = f"""
INSERT INTO reports.job_facts (day, job_id, resolution, megapixels, outcome, reason, paid_to_submitted,
    submitted_to_ready, ready_to_delivered, delivered_to_mailed, paid_to_mailed, submissions, credits, credits_assumed,
    api_cost_cents, credits_wasted, currency, price_cents, received_cents, stripe_fee_cents, stripe_fee_known,
    refunded_cents, disputed_cents, dispute_fee_cents, net_margin_cents, rating)
WITH others AS (
    SELECT number, {_SUMMED_MONEY} FROM (
        SELECT k.number, {_RECORDS}
        FROM smi.payments p JOIN picked k USING (job_id) JOIN smi.upscale_jobs j USING (job_id) {_RECORDS_OF_PAYMENTS}
        WHERE p.role <> 'order' AND p.currency = k.currency
          AND p.payment_intent_id IS DISTINCT FROM j.payment_intent_id
    ) AS records GROUP BY number
), happened AS (
    -- every NULL with its type and no condition: only then does the planner see the indexes
    SELECT job_id, state, credits, NULL::text AS kind, NULL::timestamptz AS accepted_at, NULL::integer AS score
    FROM smi.submissions
    UNION ALL
    SELECT job_id, NULL::text, NULL::integer, kind, accepted_at, NULL::integer FROM smi.emails
    UNION ALL
    SELECT job_id, NULL::text, NULL::integer, NULL::text, NULL::timestamptz, score FROM smi.feedback
), summed AS (
    SELECT number, count(*) FILTER (WHERE state <> 'sending') AS submissions, coalesce(sum(credits), 0) AS credits,
           count(*) FILTER (WHERE state = 'lost' AND credits IS NULL) AS lost,
           coalesce(sum(credits) FILTER (WHERE state = 'completed'), 0) AS useful,
           min(accepted_at) FILTER (WHERE kind = 'completion') AS completion,
           min(accepted_at) FILTER (WHERE kind = 'completion' AND accepted_at >= completed_at) AS delivery,
           min(accepted_at) FILTER (WHERE kind = 'refund') AS refund_mail, max(score) AS rating
    FROM happened JOIN picked USING (job_id) GROUP BY number
), decided AS (
    SELECT number, bool_or(outcome = 'deliver') AS delivered, bool_or(outcome = 'refund') AS refund,
           bool_or(reason = 'refunded_outside') AS outside,
           (array_agg(reason ORDER BY round) FILTER (WHERE reason IS NOT NULL))[1] AS reason
    FROM smi.outcomes JOIN picked USING (job_id) WHERE status <> 'completed' GROUP BY number
), settled AS (
    SELECT DISTINCT number FROM smi.refunds JOIN picked USING (job_id)
    WHERE status <> 'completed' AND kind IN ('failure', 'wrong_amount') AND state IN ('succeeded', 'not_needed')
), judged AS (
    SELECT j.*, CASE
            WHEN j.status = 'completed' OR d.delivered THEN 'delivered'
            WHEN j.status = 'refunded' OR d.outside OR (d.refund AND s.number IS NOT NULL) THEN 'refunded'
            WHEN j.status = 'failed' OR d.refund THEN 'failed'
            ELSE 'open' END AS outcome,
        coalesce(d.reason, j.reason_code) AS why, h.completion, h.delivery, h.refund_mail, h.rating,
        CASE WHEN j.received_cents IS NOT NULL THEN j.known_fee IS NOT NULL AND coalesce(o.fee_known, true)
            ELSE coalesce(o.fee_known, false) END AS fee_known,
        -- imported history has its price and status alone
        {_with_others("received", "j.price_cents")},
        {_with_others("fee", _RATE.format(cents="j.price_cents"))},
        {_with_others("refunded", "CASE WHEN j.status = 'refunded' THEN j.price_cents ELSE 0 END")},
        {_with_others("disputed", "0")},
        {_with_others("dispute_fee", "0")},
        coalesce(h.submissions, 0) AS submissions,
        CASE WHEN h.submissions > 0 THEN h.credits
            WHEN j.imported AND j.status = 'completed' THEN j.expected_credits ELSE 0 END AS credits,
        coalesce(h.lost * j.expected_credits, 0) AS assumed,
        CASE WHEN h.submissions > 0 THEN h.useful WHEN j.imported THEN j.expected_credits ELSE 0 END AS useful
    FROM picked j LEFT JOIN summed h USING (number) LEFT JOIN others o USING (number) LEFT JOIN decided d USING (number)
    LEFT JOIN settled s USING (number)
), priced AS (
    SELECT *, CAST(ceil((credits + assumed) * credit_cents) AS integer) AS cost FROM judged
)
SELECT day, job_id, resolution, megapixels, outcome, CASE WHEN outcome IN ('refunded', 'failed') THEN why END,
       -- date_part: as extract, in floating point
       CASE WHEN submitted_at >= paid_at THEN date_part('epoch', submitted_at - paid_at) END,
       CASE WHEN result_ready_at >= submitted_at THEN date_part('epoch', result_ready_at - submitted_at) END,
       CASE WHEN completed_at >= result_ready_at THEN date_part('epoch', completed_at - result_ready_at) END,
       date_part('epoch', delivery - completed_at),
       date_part('epoch', CASE WHEN outcome = 'delivered' THEN completion
                               WHEN outcome <> 'open' THEN refund_mail END - paid_at),
       submissions, credits, assumed, cost,
       CASE WHEN outcome IN ('refunded', 'failed') THEN credits + assumed ELSE credits + assumed - useful END,
       currency, price_cents, received, fee, fee_known, refunded, disputed, dispute_fee,
       received - refunded - disputed - fee - dispute_fee - cost, rating
FROM priced
"""

OUTSIDE = """p.role <> 'order'
    AND coalesce(p.paid_at, p.learned_at) >= CAST(:first AS date)::timestamp AT TIME ZONE 'UTC'
    AND coalesce(p.paid_at, p.learned_at) < (CAST(:last AS date) + 1)::timestamp AT TIME ZONE 'UTC'
    AND (j.paid_at IS NULL OR p.currency <> coalesce(
        (SELECT o.currency FROM smi.payments o WHERE o.payment_intent_id = j.payment_intent_id), j.currency))"""

INSERT_OTHER_MONEY = f"""
INSERT INTO reports.other_money (day, subject, kind, currency, submissions, credits, credits_assumed, api_cost_cents,
    received_cents, stripe_fee_cents, stripe_fee_known, refunded_cents, disputed_cents, dispute_fee_cents,
    net_margin_cents)
WITH paid AS (
    SELECT payment_intent_id, currency, day, {_SUMMED_MONEY} FROM (
        SELECT p.payment_intent_id, p.currency, (coalesce(p.paid_at, p.learned_at) AT TIME ZONE 'UTC')::date AS day,
               {_RECORDS}
        FROM smi.payments p LEFT JOIN smi.upscale_jobs j USING (job_id) {_RECORDS_OF_PAYMENTS}
        WHERE {OUTSIDE}
    ) AS records GROUP BY payment_intent_id, currency, day
), gifts AS (
    SELECT (s.created_at AT TIME ZONE 'UTC')::date AS day, job_id, j.currency, {_CREDIT_CENTS} AS credit_cents,
           count(*) AS submissions,
           coalesce(sum(s.credits), 0) AS credits,
           coalesce(sum(j.expected_credits) FILTER (WHERE s.state = 'lost' AND s.credits IS NULL), 0) AS assumed
    FROM smi.upscale_jobs j JOIN smi.submissions s USING (job_id)
    WHERE j.paid_at IS NULL AND j.admin_override AND s.state <> 'sending'
      AND s.created_at >= CAST(:first AS date)::timestamp AT TIME ZONE 'UTC'
      AND s.created_at < (CAST(:last AS date) + 1)::timestamp AT TIME ZONE 'UTC'
    GROUP BY 1, job_id
), priced AS (
    SELECT *, ceil((credits + assumed) * credit_cents) AS cost FROM gifts
)
SELECT day, payment_intent_id, 'payment', currency, 0, 0, 0, 0, received, fee,
       fee_known, refunded, disputed, dispute_fee, received - refunded - disputed - fee - dispute_fee
FROM paid
UNION ALL
SELECT day, job_id, 'gift', currency, submissions, credits, assumed, cost, 0, 0, true, 0, 0, 0, -cost FROM priced
"""

INSERT_DAY_SUMS = """
INSERT INTO reports.day_sums (day, currency, resolution, outcome, reason, rating, jobs, jobs_at_a_loss, received_cents,
    refunded_cents, disputed_cents, stripe_fee_cents, api_cost_cents, net_margin_cents, credits, credits_assumed,
    credits_wasted)
SELECT day, currency, resolution, outcome, reason, rating, count(*), count(*) FILTER (WHERE net_margin_cents < 0),
       sum(received_cents), sum(refunded_cents), sum(disputed_cents), sum(stripe_fee_cents + dispute_fee_cents),
       sum(api_cost_cents), sum(net_margin_cents), sum(credits), sum(credits_assumed), sum(credits_wasted)
FROM reports.job_facts WHERE day BETWEEN :first AND :last
GROUP BY day, currency, resolution, outcome, reason, rating
UNION ALL
SELECT day, currency, 'none', kind, NULL, NULL, count(*), 0,
       sum(received_cents), sum(refunded_cents), sum(disputed_cents), sum(stripe_fee_cents + dispute_fee_cents),
       sum(api_cost_cents), sum(net_margin_cents), sum(credits), sum(credits_assumed), 0
FROM reports.other_money WHERE day BETWEEN :first AND :last
GROUP BY day, currency, kind
"""

_START = {
    "day": "day",
    "week": "date_trunc('week', day)::date",
    "month": "date_trunc('month', day)::date",
}
_SUMS = "reports.day_sums WHERE day BETWEEN :first AND :last"
_PAID = f"{_SUMS} AND resolution <> 'none'"

# At the ends exactly 0 and 1, which floating point misses by a hair.
_WILSON = f"""
    SELECT *, CASE WHEN p = 0 THEN 0 ELSE (p + z * z / (2 * n)) / (1 + z * z / n) - half END AS low,
           CASE WHEN p = 1 THEN 1 ELSE (p + z * z / (2 * n)) / (1 + z * z / n) + half END AS high
    FROM (SELECT *, z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n) AS half
          FROM (SELECT *, k / n AS p, CAST({_WILSON_Z} AS float8) AS z FROM counted) AS with_z) AS with_half"""

_COMPLETION = f"""
    WITH counted AS (
        SELECT *, nullif(paid_jobs - open_jobs, 0)::float8 AS n, delivered::float8 AS k FROM (
            SELECT {{start}} AS starts_on, coalesce(resolution, 'all') AS resolution, sum(jobs) AS paid_jobs,
                   {
    ", ".join(
        f"coalesce(sum(jobs) FILTER (WHERE outcome = '{o}'), 0) AS {name}"
        for o, name in (("delivered",) * 2, ("refunded",) * 2, ("failed",) * 2, ("open", "open_jobs"))
    )
}
            FROM {_PAID} GROUP BY GROUPING SETS ((1), (1, resolution))) AS outcomes
    )
    SELECT '{{period}}', starts_on, resolution, paid_jobs, delivered, refunded, failed, open_jobs, p, low, high
    FROM ({_WILSON}) AS w"""

_ERRORS = f"""
    WITH closed AS (
        SELECT {{start}} AS starts_on, CASE WHEN outcome <> 'delivered' THEN coalesce(reason, 'unknown') END AS reason,
               jobs
        FROM {_PAID} AND outcome <> 'open'
    ), counted AS (
        SELECT c.starts_on, coalesce(c.reason, 'all') AS reason, sum(c.jobs) AS jobs, decided,
               sum(c.jobs)::float8 AS k, decided::float8 AS n
        FROM closed c JOIN (SELECT starts_on, sum(jobs) AS decided FROM closed GROUP BY 1) AS d USING (starts_on)
        WHERE c.reason IS NOT NULL GROUP BY GROUPING SETS ((1, decided), (1, decided, c.reason))
    )
    SELECT '{{period}}', starts_on, reason, jobs, decided, p, low, high FROM ({_WILSON}) AS w"""

_MARGIN = f"""
    SELECT '{{period}}', {{start}}, currency, coalesce(resolution, 'all'),
           coalesce(sum(jobs) FILTER (WHERE resolution <> 'none'), 0), sum(received_cents), sum(refunded_cents),
           sum(disputed_cents), sum(stripe_fee_cents), sum(api_cost_cents), sum(net_margin_cents),
           round(sum(net_margin_cents) * 100.0 / nullif(sum(received_cents), 0), 1), sum(jobs_at_a_loss)
    FROM {_SUMS} GROUP BY GROUPING SETS (({{start}}, currency), ({{start}}, currency, resolution))"""

_CREDITS = f"""
    WITH used AS (
        SELECT {{start}} AS starts_on, day, resolution, jobs, credits, credits_assumed AS assumed,
               credits_wasted AS wasted, api_cost_cents AS cost
        FROM {_SUMS} AND outcome <> 'payment'
    ), running AS (
        SELECT starts_on, day, sum(sum(credits + assumed)) OVER (PARTITION BY starts_on ORDER BY day) AS so_far
        FROM used GROUP BY starts_on, day
    ), summed AS (
        SELECT starts_on, coalesce(resolution, 'all') AS resolution, sum(jobs) AS jobs, sum(credits) AS credits,
               sum(assumed) AS assumed, sum(wasted) AS wasted, sum(cost) AS cost, sum(credits + assumed) AS total,
               (starts_on + interval '1 month - 1 day')::date AS ends_on,
               '{{period}}' = 'month' AND resolution IS NULL AS has_budget
        FROM used GROUP BY GROUPING SETS ((1), (1, resolution))
    ), forecast AS (
        SELECT *, CASE WHEN has_budget THEN CAST(:budget AS bigint) END AS budget, least(ends_on, :today) AS until,
               CASE WHEN has_budget THEN total::numeric / greatest(least(ends_on, :today) - starts_on + 1, 1) END
                   AS mean,
               (SELECT min(day) FROM running r WHERE r.starts_on = s.starts_on AND so_far >= :budget) AS ran_out_on
        FROM summed s
    )
    SELECT '{{period}}', starts_on, resolution, jobs, credits, assumed, wasted, cost, budget, total::float8 / budget,
           round(mean * (ends_on - starts_on + 1)),
           CASE WHEN NOT has_budget THEN NULL WHEN ran_out_on IS NOT NULL THEN ran_out_on
                WHEN mean > 0 AND (budget - total) / mean <= ends_on - until
                THEN until + ceil((budget - total) / mean)::integer END
    FROM forecast"""

_SATISFACTION = f"""
    SELECT '{{period}}', {{start}}, coalesce(resolution, 'all'), sum(jobs),
           coalesce(sum(jobs) FILTER (WHERE rating IS NOT NULL), 0),
           coalesce(sum(jobs) FILTER (WHERE rating IS NOT NULL), 0)::float8 / sum(jobs),
           sum(jobs * rating)::float8 / sum(jobs) FILTER (WHERE rating IS NOT NULL),
           {", ".join(f"coalesce(sum(jobs) FILTER (WHERE rating = {n}), 0)" for n in range(1, 6))}
    FROM {_PAID} AND outcome = 'delivered' GROUP BY GROUPING SETS (({{start}}), ({{start}}, resolution))"""

_SELECT_REPORT = {
    "completion_rate": _COMPLETION,
    "error_rate": _ERRORS,
    "profit_margin": _MARGIN,
    "credit_usage": _CREDITS,
    "customer_satisfaction": _SATISFACTION,
}


def insert_report(table: str, period: str) -> str:
    """Return the statement that calculates a report for the periods between the days `:first` and `:last`."""
    return f"INSERT INTO reports.{table} " + _SELECT_REPORT[table].format(start=_START[period], period=period)
