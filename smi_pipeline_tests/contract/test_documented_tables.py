"""The list of tables in docs/architecture.md is that of a migrated database, with the modules that write them."""

import re
from pathlib import Path

from sqlalchemy import create_engine, text

from smi_pipeline_tests.unit.state.test_sql_sources import OWNERS

ROOT = Path(__file__).parents[2]


def documented() -> dict[str, str]:
    """Return the modules that the document names for each table."""
    section = (ROOT / "docs" / "architecture.md").read_text().split("## Tables")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", section, re.M))


def test_the_tables_of_the_architecture_are_those_of_the_database(state_url: str) -> None:
    engine = create_engine(state_url)
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'smi'"))
        assert set(documented()) == {table for (table,) in tables}
    engine.dispose()


def test_the_architecture_names_every_module_that_writes_a_table() -> None:
    for table, modules in documented().items():
        owners = {f"`state/{module}.py`" for module in OWNERS.get(table, ())}
        assert owners <= set(re.findall(r"`state/\w+\.py`", modules)), table
