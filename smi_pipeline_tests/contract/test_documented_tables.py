"""The list of tables in docs/architecture.md is that of a migrated database."""

import re
from pathlib import Path

from sqlalchemy import create_engine, text

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_architecture_are_those_of_the_database(state_url: str) -> None:
    section = (ROOT / "docs" / "architecture.md").read_text().split("## Tables")[1].split("\n## ")[0]
    engine = create_engine(state_url)
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'smi'"))
        assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == {table for (table,) in tables}
    engine.dispose()
