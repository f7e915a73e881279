"""Words of a closed vocabulary stand in `core.vocabulary` alone, in Python as in SQL."""

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

import smi_pipeline
from smi_pipeline.core import vocabulary
from smi_pipeline_tests.sql_sources import statements

PACKAGE = Path(smi_pipeline.__file__).parent
WORDS = {
    member.value
    for enum in vars(vocabulary).values()
    if isinstance(enum, type) and issubclass(enum, StrEnum) and enum is not StrEnum
    for member in enum
}
_SQL_WORD = re.compile(r"(?:=|<>|\bIN \((?:'\w+', )*|\bTHEN|\bELSE) ?'(\w+)'")


def _literals(node: ast.AST) -> Iterator[list[str]]:
    """The strings of each tuple, list or set, and of each comparison."""
    for inner in ast.walk(node):
        parts: list[ast.expr] = []
        if isinstance(inner, ast.Tuple | ast.List | ast.Set) and len(inner.elts) > 1:
            parts = inner.elts
        elif isinstance(inner, ast.Compare):
            parts = [part for part in (inner.left, *inner.comparators) if isinstance(part, ast.Constant)]
        strings = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if strings and len(strings) == len(parts):
            yield strings


# "known" is an effect of an event as well, "succeeded" a status of Stripe's.
@pytest.mark.parametrize("folder", ["core", "state", "services", "fulfilment"])
def test_no_collection_and_no_comparison_holds_words_of_a_vocabulary(folder: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {strings}"
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        if path.name != "vocabulary.py" and "migrations" not in path.parts
        for strings in _literals(ast.parse(path.read_text()))
        if set(strings) <= WORDS - {"known", "succeeded"} and not set(strings) <= {"day", "week", "month"}
    ]
    assert found == []


def test_no_sql_of_the_state_holds_words_of_a_vocabulary() -> None:
    found = [
        f"{statement.module}.{statement.function}: {word}"
        for statement in statements()
        for word in _SQL_WORD.findall(statement.sql)
        if word in WORDS
    ]
    assert found == []
