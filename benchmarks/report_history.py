"""A made-up history of a shop in the state's tables: millions of jobs in a few statements, the same at every run.

Every value comes from a hash of the job's number; rows are in the order of time, as a shop writes them. Triggers are
off and indexes are built at the end.
"""

from datetime import date

from sqlalchemy import create_engine, text

from smi_pipeline.state.database import Database, Transaction

FIRST_DAY = date(2025, 1, 1)
DAYS = 365

_TABLES = ("smi.upscale_jobs", "smi.payments", "smi.submissions", "smi.outcomes", "smi.emails", "smi.refunds",
           "smi.feedback", "reports.stripe_bookings")  # fmt: skip

_FUNCTIONS = """
CREATE FUNCTION pg_temp.u(i bigint, salt int) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT (hashint8extended(i, salt) & 4503599627370495) / 4503599627370496.0::float8 $$;
CREATE FUNCTION pg_temp.job(i bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT md5(i::text) $$;
CREATE TEMP TABLE made AS
SELECT i, md5(i::text) AS job_id,
       CAST(:first AS timestamp) AT TIME ZONE 'UTC'
           + (i + pg_temp.u(i, 1)) * (interval '1 day' * :days / :jobs) AS paid,
       CASE WHEN pg_temp.u(i, 2) < 0.3 THEN 8 ELSE 4 END AS scale,
       200 + floor(1400 * pg_temp.u(i, 3))::int AS width, 200 + floor(900 * pg_temp.u(i, 4))::int AS height,
       CASE WHEN pg_temp.u(i, 5) < 0.05 THEN 'eur' ELSE 'usd' END AS currency,
       pg_temp.u(i, 6) AS draw, 0.2 - 2 * ln(1 - pg_temp.u(i, 7)) AS s1, 5 - 90 * ln(1 - pg_temp.u(i, 8)) AS s2,
       0.3 + 2 * pg_temp.u(i, 9) AS s3, 0.05 + 0.5 * pg_temp.u(i, 10) AS s4
FROM generate_series(0, :jobs - 1) AS i;
ALTER TABLE made ADD credits int, ADD price int;
"""

# draw: below 0.94 delivered, of these below 0.01 twice submitted; below 0.99 refunded, else failed and still owed
_ROWS = [
    """
    INSERT INTO smi.upscale_jobs (job_id, created_at, updated_at, status, source_url, file_name, resolution, scale,
        customer_email, source_format, source_width, source_height, source_bytes, source_sha256, price_cents, currency,
        expected_credits, checkout_session_id, payment_intent_id, paid_at, learned_at, start_by, processing_at,
        submitted_at, deadline_at, result_ready_at, completed_at, failed_at, result_key, result_sha256, reason_code)
    SELECT job_id, paid - interval '1 minute', paid + interval '1 second' * (s1 + s2 + s3),
           CASE WHEN draw < 0.94 THEN 'completed' WHEN draw < 0.99 THEN 'refunded' ELSE 'failed' END,
           'https://shop.example/wp-content/uploads/2025/' || job_id || '.jpg', job_id || '.jpg', scale || 'x', scale,
           left(job_id, 9) || '@customer.example', 'JPEG', width, height, width * height, job_id || job_id, price,
           currency, credits, 'cs_' || job_id, 'pi_' || job_id, paid, paid, paid + interval '1 hour', paid,
           paid + interval '1 second' * s1, paid + interval '900 second' + interval '1 second' * s1,
           CASE WHEN draw < 0.94 THEN paid + interval '1 second' * (s1 + s2) END,
           CASE WHEN draw < 0.94 THEN paid + interval '1 second' * (s1 + s2 + s3) END,
           CASE WHEN draw >= 0.94 THEN paid + interval '1 second' * (s1 + s2) END,
           'results/' || job_id, job_id || job_id,
           CASE WHEN draw >= 0.94 THEN (ARRAY['upscale_failed', 'timed_out', 'result_rejected'])[1 + i % 3] END
    FROM made ORDER BY i""",
    """
    INSERT INTO smi.payments (payment_intent_id, job_id, role, received_cents, currency, charge_id, fee_cents, dispute,
        paid_at, learned_at, learned_from)
    SELECT 'pi_' || job_id, job_id, 'order', price, currency, 'ch_' || job_id,
           CASE WHEN i % 50 > 0 THEN round(price * 0.029) + 30 END, CASE WHEN i % 1000 = 7 THEN 'lost' END, paid, paid,
           'webhook'
    FROM made
    UNION ALL
    SELECT 'pi_2' || job_id, job_id, 'duplicate', price, currency, 'ch_2' || job_id, round(price * 0.029) + 30, NULL,
           paid, paid, 'webhook'
    FROM made WHERE i % 500 = 3 ORDER BY 9""",
    """
    INSERT INTO smi.submissions (job_id, round, state, token_hash, external_id, created_at, accepted_at, finished_at,
        credits)
    SELECT job_id, 1, CASE WHEN draw < 0.94 THEN 'completed' WHEN i % 3 = 1 THEN 'timed_out' ELSE 'failed' END,
           job_id || job_id, 'up_' || job_id, paid, paid + interval '1 second' * s1,
           paid + interval '1 second' * (s1 + s2), CASE WHEN draw < 0.94 OR i % 3 > 0 THEN credits ELSE 0 END
    FROM made
    UNION ALL
    SELECT job_id, 1, 'lost', '2' || job_id, NULL, paid - interval '1 minute', NULL, paid, NULL
    FROM made WHERE draw < 0.01 ORDER BY 6""",
    """
    INSERT INTO smi.outcomes (job_id, round, outcome, reason, decided_at, actor)
    SELECT job_id, 1, CASE WHEN draw < 0.94 THEN 'deliver' ELSE 'refund' END,
           CASE WHEN draw >= 0.94 THEN (ARRAY['upscale_failed', 'timed_out', 'result_rejected'])[1 + i % 3] END,
           paid + interval '1 second' * (s1 + s2), 'bench' FROM made ORDER BY i""",
    """
    INSERT INTO smi.emails (job_id, kind, serial, message_id, state, handed_over_at, accepted_at)
    SELECT job_id, CASE WHEN draw < 0.94 THEN 'completion' ELSE 'refund' END, 1, '<' || job_id || '@shop.example>',
           'accepted', paid, paid + interval '1 second' * (s1 + s2 + s3 + s4) FROM made ORDER BY i""",
    """
    INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, idempotency_key, state, amount_cents, currency,
        stripe_refund_id, reason_code, actor)
    SELECT job_id, 'pi_' || job_id, 'failure', 1, 'refund:' || job_id, CASE WHEN draw < 0.99 THEN 'succeeded' ELSE
           'owed' END, CASE WHEN draw < 0.99 THEN price END, currency, CASE WHEN draw < 0.99 THEN 're_' || job_id END,
           'upscale_failed', 'bench' FROM made WHERE draw >= 0.94
    UNION ALL
    SELECT job_id, 'pi_2' || job_id, 'duplicate_payment', 1, 'refund:2' || job_id, 'succeeded', price, currency,
           're_2' || job_id, 'duplicate_payment', 'bench' FROM made WHERE i % 500 = 3""",
    """
    INSERT INTO smi.feedback (job_id, score) SELECT job_id, 5 - floor(5 * power(pg_temp.u(i, 11), 2))::int
    FROM made WHERE draw < 0.94 AND pg_temp.u(i, 12) < 0.2 ORDER BY i""",
    """
    INSERT INTO reports.stripe_bookings (booking_id, created_at, source_id, kind, payment_intent_id, amount_cents,
        fee_cents, currency)
    SELECT 'txn_' || job_id, paid, 'ch_' || job_id, 'charge', 'pi_' || job_id, price, round(price * 0.029) + 30,
           currency FROM made
    UNION ALL
    SELECT 'txn_d' || job_id, paid + interval '9 days', 'dp_' || job_id, 'dispute', 'pi_' || job_id, -price, 1500,
           currency FROM made WHERE i % 1000 = 7 ORDER BY 2""",
]


def make_history(database: Database, jobs: int) -> None:
    """Fills an empty, migrated state with `jobs` paid upscale jobs over `DAYS` days from `FIRST_DAY`."""
    with database.transaction() as tx:
        tx.run("SET LOCAL statement_timeout = 0; SET LOCAL session_replication_role = replica")
        tx.run("SET LOCAL maintenance_work_mem = '256MB'; SET LOCAL synchronous_commit = off; SET LOCAL jit = off")
        again = _without_indexes(tx)
        for statement in _FUNCTIONS.split(";\n"):
            if statement.strip():
                tx.run(statement, first=FIRST_DAY, days=DAYS, jobs=jobs)
        tx.run(
            """UPDATE made SET credits = c, price = greatest(50, c * 12) FROM (SELECT i AS k,
               greatest(1, ceil(width::numeric * height * scale * scale / 4000000))::int AS c FROM made) AS x
               WHERE k = i"""
        )
        for statement in _ROWS:
            tx.run(statement)
        tx.run("DROP TABLE made")
        for statement in again:
            tx.run(statement)
    engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:  # as autovacuum has done by the time a shop is so old
        for table in _TABLES:
            connection.execute(text(f"VACUUM ANALYZE {table}"))
    engine.dispose()


def _without_indexes(tx: Transaction) -> list[str]:
    """Drops keys and indexes of the tables; returns the statements that make them anew (without foreign keys)."""
    again = []
    for table in _TABLES:
        found = tx.rows(
            """SELECT conname AS name, pg_get_constraintdef(oid) AS definition, contype::text AS kind FROM pg_constraint
               WHERE conrelid = CAST(:t AS regclass) AND contype IN ('p', 'u')""",
            t=table,
        )
        for row in found:
            tx.run(f"ALTER TABLE {table} DROP CONSTRAINT {row['name']} CASCADE")
            again.append(f"ALTER TABLE {table} ADD CONSTRAINT {row['name']} {row['definition']}")
        schema, _, name = table.partition(".")
        for row in tx.rows(
            "SELECT indexname AS name, indexdef FROM pg_indexes WHERE schemaname = :s AND tablename = :n",
            s=schema,
            n=name,
        ):
            tx.run(f"DROP INDEX {schema}.{row['name']}")
            again.append(row["indexdef"])
    return again
