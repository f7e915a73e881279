"""Migrations that have landed stay as they are, and a database of each of them upgrades to the schema of a new one."""

import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline.state.migrations import versions
from smi_pipeline.state.schema import alembic_config, migrate

LANDED = {
    "0001_state": "dc661e4c6bcd829e5a7dac4b1ebb163c415af49e7d7ea34fe600625106752cde",
    "0002_outages": "c177b9592cbd397a4bfbec9d4a8ea47182dc5b432915306a53710ead06b8fbda",
    "0003_reports": "4a08f17e31893cbf7e59d0f9744f8c152613bc5f8bcaaa247b145d843b794aea",
    "0004_facts_by_day": "879b907493e4a50fdaf1d5acde58fac5f4b36f50205c0cd497a841805dc6c370",
    "0005_disputes": "36fd246c1483c6278c83be49fbed6c2e7a06a89c9556a397ac38fd2da5142f3c",
    "0006_transitions": "91ab87c6a3b6a9b4b9dd9f4ba35ed2f847e5c6dd5fd927db8cf19dc78b7a1325",
    "0007_breakers": "4c1924ac0ddb5aeb69fa837b764b8dfb082e979f24f4b5b7689a04b37e3118f3",
    "0008_allowances": "9c9d0feac6a82afc11bcc2ec82bdb22a1fcc112254c45fcfd8177f890768bc94",
    "0009_payments": "3137afffef07a4dd0bd269c0af4557868fbc8fbe167367900af7db69351b10bb",
    "0010_screens": "79c125467dfcc791f7eab30d336f4bd31eb65da15473fe48a61f92568c8db5e3",
    "0011_failed_before": "f5061aaf9cfa41e6be33f334a4ec14c90b92df22064c3009fb1e012373068f12",
    "0012_refusals": "01601dae7aae61ad4428f599f103aa49fe02e77e2ce4382843b29fe9185143b5",
    "0013_bookings": "231c80fbad7d849c49130eb45bada1fd63f670666feaddb5e49a9b5da1e2b930",
    "0014_lowered_limits": "b5b9a86f2b60474ccda5e71854d62419a5b963026a0922b29e8cd9941978c489",
    "0015_ordered_pictures": "d15180597f034822ed8a53d73a91a56c7e132977b564a09525371a143c98d1e7",
    "0016_bookings_read": "a17ea3d8b8f169fa3af6c0c95428df45ab5b77afdc729c4da281ce590153d84b",
    "0017_released_pictures": "638fcf10e652d2adac472908d7212dd9afbc3504e22c4c75f99200853df17fad",
    "0018_imported_posts": "07bb18d4fddbd8155626cda8ee87f8ae084c2b0a7083f58d04244f1b142b5fea",
    "0019_as_one_schema": "580b9dadcd369921e68eb269302453d391f2432252abd2a4379e58390b3c8e73",
    "0020_process_heartbeats": "b40fc67966408a9c3462db4ffe48dc9b62a0dcf526667aabef5978c875dd6b71",
    "0021_keys": "3b367e2fb1e034c6eb2e1afa7080b21df1d884d40b76d57bb7417bd748a1482b",
    "0022_refused_mails": "3a61822100a19b5e15ea22cfd42cb3d172ec7b7e56b3c4414690a87763384fb0",
    "0023_credit_prices": "1087a06a0f20f551493d153303a5b4d8947f23962a5769283782ec38fde89959",
}
"""SHA-256 of each file. Add the line of a new migration; never change another one: databases have run it."""

FILES = {path.stem: path for path in sorted(Path(versions.__path__[0]).glob("[0-9]*.py"))}
REVISIONS = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]

AS_LANDED = {
    "0001": "ALTER TABLE smi.refunds ADD COLUMN must_look_up boolean NOT NULL DEFAULT false",
    "0015": """COMMENT ON TABLE smi.ordered_pictures IS
        'What the picture showed when it was ordered, until the job is abandoned or its files are removed.'""",
}
"""What makes of a revision its form at an earlier landing."""

JOB = "0" * 32
ROWS = f"""
INSERT INTO smi.upscale_jobs (job_id, status, source_url, file_name, source_format, source_sha256, source_width,
    source_height, source_bytes, resolution, scale, customer_email, price_cents, currency, expected_credits)
    VALUES ('{JOB}', 'failed', 'https://x/a.png', 'a', 'PNG', '0', 1, 1, 1, '4x', 4, 'a@b.example', 50, 'usd', 1);
INSERT INTO smi.submissions (job_id, round, state) VALUES ('{JOB}', 1, 'rejected');
INSERT INTO smi.payments (payment_intent_id, job_id, role, received_cents, currency, learned_from)
    VALUES ('pi_1', '{JOB}', 'order', 50, 'usd', 'test');
INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, currency, reason_code, actor, state)
    VALUES ('{JOB}', 'pi_1', 'failure', 1, 'usd', 'test', 'test', 'owed');
INSERT INTO smi.person_tasks (kind, subject, message, next_step) VALUES ('dispute', 'pi_1', 'm', 'n');
"""
"""What a running installation holds."""

SCHEMA = """
WITH mine AS (SELECT oid FROM pg_namespace WHERE nspname IN ('smi', 'reports', 'analytics', 'public'))
SELECT 'relation', c.oid::regclass::text, concat_ws(' ', c.relkind, c.relpersistence, c.reloptions),
       obj_description(c.oid, 'pg_class')
    FROM pg_class c WHERE c.relnamespace IN (TABLE mine) AND c.relkind <> 'i'
UNION ALL
SELECT 'column', a.attrelid::regclass || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
           a.attnotnull, a.attidentity, a.attgenerated, a.attcollation::regcollation,
           pg_get_expr(d.adbin, d.adrelid)), col_description(a.attrelid, a.attnum)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace IN (TABLE mine) AND c.relkind IN ('r', 'v', 'm', 'p')
        AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint', c.conrelid::regclass || '.' || c.conname,
       concat_ws(' ', pg_get_constraintdef(c.oid), c.convalidated),
       obj_description(c.oid, 'pg_constraint')
    FROM pg_constraint c WHERE c.connamespace IN (TABLE mine)
UNION ALL
SELECT 'index', i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid),
       obj_description(i.indexrelid, 'pg_class')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace IN (TABLE mine)
UNION ALL
SELECT 'trigger', t.tgrelid::regclass || '.' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled),
       obj_description(t.oid, 'pg_trigger')
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace IN (TABLE mine) AND NOT t.tgisinternal
UNION ALL
SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid), obj_description(p.oid, 'pg_proc')
    FROM pg_proc p WHERE p.pronamespace IN (TABLE mine)
UNION ALL
SELECT 'view', c.oid::regclass::text, pg_get_viewdef(c.oid), NULL
    FROM pg_class c WHERE c.relnamespace IN (TABLE mine) AND c.relkind IN ('v', 'm')
UNION ALL
SELECT 'schema', n.nspname, n.nspacl::text, obj_description(n.oid, 'pg_namespace')
    FROM pg_namespace n WHERE n.oid IN (TABLE mine)
ORDER BY 1, 2
"""

Copies = dict[str, Engine]


def test_each_migration_is_the_one_that_has_landed() -> None:
    found = {name: sha256(path.read_bytes()).hexdigest() for name, path in FILES.items()}
    assert found == LANDED, "a landed migration was changed (write another one), or a new one has no line here"


@pytest.fixture(scope="module")
def copies(postgres: EmbeddedPostgres) -> Iterator[Copies]:
    """A database of each revision, with rows, as `smi migrate` of its time has left it."""
    prefix = f"migrations_{uuid.uuid4().hex[:8]}"
    server = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    made: Copies = {}

    def copy(name: str, of: str) -> Engine:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {prefix}_{name} TEMPLATE {of}"))
        made[name] = create_engine(postgres.url(f"{prefix}_{name}"), poolclass=NullPool)
        return made[name]

    try:
        before = "template1"
        for revision in REVISIONS:
            engine = copy(revision, before)
            with engine.begin() as connection:
                upgrade(connection, revision)
                if revision == REVISIONS[0]:
                    connection.execute(text(ROWS))
            before = f"{prefix}_{revision}"
        for revision, change in AS_LANDED.items():
            with copy(f"{revision}_landed", f"{prefix}_{revision}").begin() as connection:
                connection.execute(text(change))
        yield made
    finally:
        with server.connect() as connection:
            for name in made:
                connection.execute(text(f"DROP DATABASE {prefix}_{name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def of_a_new_one(template: str) -> list[tuple[str, ...]]:
    with create_engine(template, poolclass=NullPool).connect() as connection:
        return schema_of(connection)


@pytest.mark.parametrize("landed", [*REVISIONS, *(f"{revision}_landed" for revision in AS_LANDED)])
def test_a_database_of_each_landed_migration_upgrades_to_the_schema_of_a_new_one(
    copies: Copies, of_a_new_one: list[tuple[str, ...]], landed: str
) -> None:
    migrate(copies[landed].url.render_as_string(hide_password=False))
    with copies[landed].connect() as connection:
        assert schema_of(connection) == of_a_new_one
        assert connection.execute(text("SELECT version_num FROM smi_schema_version")).scalars().all() == REVISIONS[-1:]
        kept = {table: connection.execute(text(f"SELECT count(*) FROM smi.{table}")).scalar() for table in TABLES}
    assert kept == dict.fromkeys(TABLES, 1)


TABLES = ("upscale_jobs", "submissions", "payments", "refunds", "person_tasks")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE smi.refunds ADD COLUMN more text",
        "ALTER TABLE smi.refunds ALTER COLUMN reason_code DROP NOT NULL",
        "ALTER TABLE smi.refunds ALTER COLUMN reason_code SET DEFAULT 'x'",
        "ALTER TABLE smi.refunds ADD CHECK (n < 1000)",
        "CREATE INDEX another ON smi.refunds (n)",
        "DROP TRIGGER {trigger} ON smi.upscale_jobs",
        "CREATE OR REPLACE FUNCTION smi.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT clock_timestamp()'",
        "COMMENT ON COLUMN smi.refunds.n IS 'another comment'",
        "COMMENT ON VIEW analytics.jobs IS 'another comment'",
        "DROP VIEW analytics.jobs_at_a_loss",
        "CREATE SEQUENCE smi.another",
    ],
)
def test_the_comparison_notices(template: str, of_a_new_one: list[tuple[str, ...]], change: str) -> None:
    with create_engine(template, poolclass=NullPool).connect() as connection:
        name = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'smi.upscale_jobs'::regclass AND NOT tgisinternal LIMIT 1"
        connection.execute(text(change.format(trigger=connection.execute(text(name)).scalar())))
        assert schema_of(connection) != of_a_new_one
        connection.rollback()


def upgrade(connection: Connection, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def schema_of(connection: Connection) -> list[tuple[str, ...]]:
    """All that a migration may make, as PostgreSQL's catalogue describes it; the order of columns aside."""
    return [tuple(row) for row in connection.execute(text(SCHEMA))]
