"""The search for leaked secrets finds them."""

import base64
import json
import zlib
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from smi_pipeline_tests.end_to_end.leaks import cells, files_below, search

WORD = "anna.smith+1@example.com"


@pytest.mark.parametrize(
    "hidden",
    [
        WORD.encode(),
        b"to=anna.smith%2B1%40example.com&x",
        WORD.encode().hex().encode(),
        b"anna.smi=\r\nth+1@example.com",
        *(base64.b64encode(b"x" * n + json.dumps({"to": WORD}).encode()) for n in range(4)),
    ],
)
def test_a_word_is_found_in_whatever_form_it_hides(hidden: bytes) -> None:
    assert search([("here", b"before " + hidden + b" after"), ("there", b"nothing")], {"address": WORD}) == {
        ("here", "address")
    }


def test_files_and_their_names_are_searched(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "gateway.log").write_text(f"mail to {WORD}")
    (tmp_path / f"{WORD}.txt").write_text("")
    (tmp_path / "left-out").mkdir()
    (tmp_path / "left-out" / "x").write_text(WORD)
    found = search(files_below(tmp_path, besides=["left-out"]), {"address": WORD})
    assert {place for place, _ in found} == {"logs/gateway.log", f"{WORD}.txt"}


def test_every_kind_of_column_is_searched(state_url: str) -> None:
    engine = create_engine(state_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE public.kept (a text, b bytea, c jsonb, d bytea, e int)"))
        connection.execute(
            text("INSERT INTO public.kept VALUES (:a, :b, CAST(:c AS jsonb), :d, 1), (NULL, NULL, NULL, NULL, NULL)"),
            {
                "a": base64.b64encode(WORD.encode()).decode(),
                "b": WORD.encode(),
                "c": json.dumps({"to": [WORD]}),
                "d": zlib.compress(WORD.encode()),
            },
        )
    engine.dispose()
    found = search(cells(state_url), {"address": WORD})
    assert {place for place, _ in found} == {f"public.kept.{column}" for column in "abcd"}
