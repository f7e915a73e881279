"""Exports of the plugin's table by phpMyAdmin, wp-cli, MySQL and Excel."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_pipeline.commands.exports import NULLS, Export, Record, read
from smi_pipeline.commands.wordpress import REQUIRED
from smi_pipeline.core.errors import RefusedError
from smi_pipeline_tests.exports import TABLE, WRITERS, Row, Writer, into_outfile, power_shell, wp_cli

TRICKY = "\"'\\,;\t\n\r|NnNtr0=-+@ aäßह😀"
NAMES = ["id", *REQUIRED, "refund_reason"]

texts = st.text(st.sampled_from(TRICKY), max_size=12)
values = st.one_of(st.none(), texts, st.sampled_from(["NULL", "\\N", "C:\\new\\table", '"quoted"', 'a\\"b', "\\"]))
tables = st.lists(st.lists(values, min_size=len(TABLE) - 2, max_size=len(TABLE) - 2), min_size=1, max_size=4)


def given_back(export: Export) -> list[list[str]]:
    assert [record.problem for record in export.records] == [None] * len(export.records)
    return [[counted(cell) for cell in record.cells] for record in export.records]


def counted(value: str | None) -> str:
    """What of a value counts: NULL and empty are the same."""
    kept = (value or "").strip()
    return "" if kept in NULLS else kept


def parse(content: bytes, **options: Any) -> Export:
    return read(content, required=REQUIRED, table="wp_smi_jobs", **options)


@pytest.mark.parametrize("writer", WRITERS, ids=str)
@settings(deadline=None)
@given(rows=tables)
def test_no_row_and_no_value_of_an_export_is_lost_or_changed(writer: Writer, rows: list[Row]) -> None:
    full: list[Row] = [
        [str(n), f"{n:032x}", *("".join(c for c in v if c not in writer.drops) if v else v for v in row)]
        for n, row in enumerate(rows)
    ]
    content = writer.write(TABLE, full)
    options: dict[str, Any] = dict(writer.options)
    if "columns" in options:
        options["columns"] = options["columns"].split(",")
    expected = [[counted(value) for value in row] for row in full]
    assert given_back(parse(content, format=writer.format, **options)) == expected
    try:
        found = parse(content, **options)
    except RefusedError as error:
        assert "can be read in two ways" in str(error)
    else:
        assert given_back(found) == expected


@pytest.mark.parametrize("writer", WRITERS, ids=str)
def test_the_format_of_usual_values_is_found(writer: Writer) -> None:
    usual = 'The service said "no", twice;\nwith a tab\t, commas and a line break'
    row: list[str | None] = [None] * len(TABLE)
    row[0], row[1], row[TABLE.index("refund_reason")] = "1", "0" * 32, usual
    options: dict[str, Any] = dict(writer.options)
    if "columns" in options:
        options["columns"] = options["columns"].split(",")
    assert given_back(parse(writer.write(TABLE, [row]), **options)) == [[counted(value) for value in row]]


HEAD = ",".join(NAMES)
GOOD = "1,{},https://a/b.png,4x,,completed,2026-01-01 00:00:00,"


def lines(*rows: str) -> bytes:
    return "\n".join([HEAD, *rows, ""]).encode()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ('2,"never closed,x', "cannot be read as CSV: a quote within a value is not doubled, or a quote is never"),
        ('2,"closed" too early,x', "cannot be read as CSV: a quote within a value is not doubled"),
        ("2,too,few", "has 3 columns instead of 8"),
        (GOOD.format("2") + ",,,x", "has 11 columns instead of 8"),
        ('2,"two\nlines",too few', "has 3 columns"),
    ],
)
def test_a_row_that_cannot_be_read_takes_no_other_with_it(bad: str, problem: str) -> None:
    export = parse(lines(GOOD.format("a"), bad, GOOD.format('"b"'), GOOD.format("c")))
    assert [record.cells[1] for record in export.records if not record.problem] == ["a", "b", "c"]
    first = next(record for record in export.records if record.problem)
    assert first.line == 3
    assert problem in str(first.problem)


def test_a_quote_that_is_never_closed_is_named_as_such() -> None:
    export = parse(lines(GOOD.format("a"), '2,"cut off'))
    assert export.records[-1].problem == "cannot be read as CSV: a quote is opened and never closed"


@pytest.mark.parametrize("options", [{}, {"encoding": "utf-8"}])
def test_bytes_that_are_no_text_keep_out_their_row_alone(options: dict[str, Any]) -> None:
    content = lines(GOOD.format("\xe4"), GOOD.format('"two\nlines ?"'), GOOD.format("c")).replace(b"?", b"\xe4")
    export = parse(content, **options)
    assert [(record.line, bool(record.problem)) for record in export.records] == [(2, False), (3, True), (5, False)]


def test_rows_are_counted_as_an_editor_counts_lines() -> None:
    content = lines("", GOOD.format('"a\nb"'), ",,,,,,,", GOOD.format("c"))
    assert [(record.line, record.cells[1]) for record in parse(content).records] == [(3, "a\nb"), (6, "c")]
    assert [record.line for record in parse(b"\n\r\n" + content).records] == [5, 8]


def test_the_line_for_excel_names_the_separator() -> None:
    export = parse(b"sep=;\r\n" + lines(GOOD.format("a")).replace(b",", b";").replace(b"\n", b"\r\n"))
    assert export.records == [Record(3, GOOD.format("a").split(","))]


def test_empty_columns_that_excel_adds_are_left_out() -> None:
    export = parse(b"\n".join(line + b",," for line in lines(GOOD.format("a")).splitlines()))
    assert [record.problem for record in export.records] == [None]


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"", {}, "missing: job_id"),
        (b"a,b\n1,2\n", {}, "missing: job_id"),
        (b"1,2\n", {"columns": ["id"]}, "--columns must name the columns of wp_smi_jobs; missing: job_id"),
        (lines(), {"columns": NAMES}, "leave --columns out"),
        (lines("1,\xe4").replace(b"\xc3\xa4", b"\xe4"), {}, "line 2 is not UTF-8 text; name the encoding"),
        (HEAD.encode() + b",\xe4\n", {"encoding": "ascii"}, "is not ascii text"),
        (lines(), {"encoding": "klingon"}, "'klingon' is no encoding"),
        (HEAD.encode("utf-16-le"), {}, "--encoding utf-16-le"),
        (b"PK\x03\x04...", {}, "a workbook"),
        (b"\xd0\xcf\x11\xe0...", {}, "an Excel workbook"),
        (b"\x1f\x8b...", {}, "compressed"),
        (b"-- phpMyAdmin SQL Dump\nINSERT INTO `wp_smi_jobs` ...", {}, "an SQL dump"),
        (b"\n# MySQL dump\n", {}, "an SQL dump"),
        (b"DROP TABLE IF EXISTS `wp_smi_jobs`;\n", {}, "an SQL dump"),
        (b"/*M!999999\\- enable the sandbox mode */\n-- MariaDB dump", {}, "an SQL dump"),
        (b'[{"type":"header"}]', {}, "JSON"),
        (b"<table><tr><td>job_id", {}, "HTML"),
        (b"+----+--------+\n| id | job_id |\n", {}, "drawn for the screen"),
    ],
)
def test_what_is_no_such_export_is_refused_in_one_line(content: bytes, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(content, **options)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_backslashes_that_can_be_read_in_two_ways_are_asked_for() -> None:
    content = lines(GOOD.format("a") + "C:\\\\temp")
    with pytest.raises(RefusedError, match="can be read in two ways, and nothing was imported"):
        parse(content)
    assert parse(content, format="csv").records[0].cells[-1] == "C:\\\\temp"
    assert parse(content, format="csv-backslash").records[0].cells[-1] == "C:\\temp"


def test_backslashes_that_no_writer_writes_stand_for_themselves() -> None:
    assert parse(lines(GOOD.format("a") + "C:\\temp")).records[0].cells[-1] == "C:\\temp"


def test_null_of_mysql_is_empty_and_its_text_is_not() -> None:
    row = [None, "\\Not null", *[""] * (len(TABLE) - 2)]
    (record,) = parse(into_outfile([row]), columns=TABLE).records
    assert record.cells[:2] == ["", "\\Not null"]


def test_the_escapes_of_the_mysql_client_are_undone() -> None:
    row = ["1", "a\tb\nc\\d", *[""] * (len(TABLE) - 2)]
    (record,) = parse(wp_cli(TABLE, [row])).records
    assert record.cells[1] == "a\tb\nc\\d"


def test_what_power_shell_makes_of_the_mysql_client_is_read_or_asked_for() -> None:
    plain = ["1", 'says "no"', *["NULL"] * (len(TABLE) - 2)]
    assert given_back(parse(power_shell(TABLE, [plain]))) == [[counted(value) for value in plain]]
    path = ["1", "C:\\new", *[""] * (len(TABLE) - 2)]
    with pytest.raises(RefusedError, match="mysql if"):
        parse(power_shell(TABLE, [path]))
    assert parse(power_shell(TABLE, [path]), format="mysql").records[0].cells[1] == "C:\\new"
