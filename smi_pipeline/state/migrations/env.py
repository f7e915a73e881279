"""Alembic's entry: runs the migrations on the connection that `schema.migrate` hands over."""

from alembic import context

# A version table of its own name: Dagster keeps one too, and both may live in one database.
context.configure(
    connection=context.config.attributes["connection"],
    version_table="smi_schema_version",
    version_table_schema="public",
)
with context.begin_transaction():
    context.run_migrations()
