"""Read the rows of an exported database table as phpMyAdmin, wp-cli, MySQL and Excel write them.

What the writers do, by their sources: phpMyAdmin encloses in quotes and doubles them, or escapes by backslash in its
older default; `SELECT … INTO OUTFILE` puts a backslash before separators, line ends and itself, and writes NULL as \\N;
the mysql client, which `wp db query` calls, writes tabs, line ends and backslashes as \\t, \\n and \\\\.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from smi_pipeline.core.errors import RefusedError

FORMATS = ("csv", "csv-backslash", "outfile", "mysql")
_ENCLOSED, _BY_BACKSLASH = FORMATS[:2], ("csv-backslash", "outfile")
_DELIMITERS = ",;\t|"
NULLS = frozenset({"", "NULL", "\\N"})
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_NO_TABLES = {
    b"PK\x03\x04": "is a workbook or an archive: save the sheet as \u201cCSV UTF-8\u201d",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook: save the sheet as \u201cCSV UTF-8\u201d",
    b"\x1f\x8b": "is compressed: unpack it first",
}
_NO_ROWS = {
    r"--|/\*|#|(?:BEGIN|CREATE|DROP|INSERT|LOCK|REPLACE|SET|START|USE)\b": (
        "is an SQL dump: export the table as CSV with the names of the columns"
    ),
    r"<": "is HTML or XML: export the table as CSV with the names of the columns",
    r"[\[{]": "is JSON: export the table as CSV with the names of the columns",
    r"\+-": "is a table drawn for the screen: write the query's output into a file (`wp db query … > FILE`)",
}

_UNREADABLE = "\udcff"  # stands for bytes that are no text; no text holds it
codecs.register_error("smi-unreadable", lambda error: (_UNREADABLE, error.end))  # type: ignore[attr-defined]
_NO_TEXT = "has bytes that are no text: was the export cut off there, or does --encoding name another encoding?"
_CSV_PROBLEMS = (  # of the csv module, in words of people
    (r"unexpected end of data|field larger", "a quote is opened and never closed"),
    (r".* expected after", "a quote within a value is not doubled, or a quote is never closed"),
)


class Record(NamedTuple):
    """One row: the line where it begins, its cells, and what keeps it from being read."""

    line: int
    cells: list[str]
    problem: str | None = None


@dataclass(frozen=True)
class Export:
    """The names of the columns in lower case, and every row that has any content."""

    names: list[str]
    records: list[Record]


def read(
    content: bytes,
    *,
    required: Sequence[str],
    table: str,
    encoding: str | None = None,
    format: str | None = None,
    columns: Sequence[str] | None = None,
) -> Export:
    """Return the rows of an export. The first line names the columns, unless `columns` does.

    A row that cannot be read has its problem and takes no other with it. Raises RefusedError when it is not an export
    of the table, or when it can be read in two ways and `encoding` or `format` does not say which."""
    lines, plain = _lines(content, encoding, format, headless=bool(columns))
    skipped, delimiters = next((n for n, line in enumerate(lines) if line.strip()), 0), _DELIMITERS
    lines = lines[skipped:]
    if lines and (separator := re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE)):  # a line for Excel
        skipped, delimiters, lines = skipped + 1, separator[1], lines[1:]
    first = lines[0] if lines else ""
    plain = plain and not first.startswith('"')
    quoted = any(re.search(r'(?:^|\t)"', line) for line in lines)
    readings = [
        reading
        for delimiter in delimiters
        for each in ([format] if format else _formats(delimiter, plain=plain, quoted=quoted))
        if (reading := _reading(lines, _Dialect(each, delimiter), columns, required, skipped))
    ]
    if not readings:
        _refuse_others(first, columns, required, table)
    fewest = min(_unread(each) for each in readings)
    best = [each for each in readings if _unread(each) == fewest]
    if any(_shown(each) != _shown(best[0]) for each in best):
        raise RefusedError(
            "its backslashes can be read in two ways, and nothing was imported: say --format csv if they stand for "
            'themselves, csv-backslash if \\" is a quote in a value; of files with tabs, mysql if \\n is a line '
            "break (wp db query), outfile if \\N is NULL (INTO OUTFILE)"
        )
    return best[0]


class _Dialect(NamedTuple):
    format: str
    delimiter: str


def _lines(content: bytes, encoding: str | None, format: str | None, *, headless: bool) -> tuple[list[str], bool]:
    """Return the lines with their ends, and whether it may be from a program of a server: without a byte order mark,
    and with the line ends of Unix or without the names of columns, which Excel never leaves out."""
    for start, what in _NO_TABLES.items():
        if content.startswith(start):
            raise RefusedError(f"the file {what}")
    marked = next((name for bom, name in _BOMS.items() if content.startswith(bom)), None)
    if not (encoding or marked) and b"\0" in content.partition(b"\n")[0]:
        raise RefusedError("the file is no UTF-8 text; name its encoding, such as --encoding utf-16-le")
    try:
        text = content.decode(encoding or marked or "utf-8").removeprefix("\ufeff")
    except LookupError:
        raise RefusedError(f"{encoding!r} is no encoding that is known here") from None
    except UnicodeDecodeError as error:
        text = content.decode(encoding or marked or "utf-8", "smi-unreadable").removeprefix("\ufeff")
        if not headless and _UNREADABLE in text.partition("\n")[0]:
            raise RefusedError(f"the file is not {encoding or marked or 'UTF-8'} text (byte {error.start})") from None
        # Only some rows are damaged if it is said what the file is, or if other letters show it, or only its end is.
        if not (encoding or marked or error.end == len(content) or not text.replace(_UNREADABLE, "").isascii()):
            line = content.count(b"\n", 0, error.start) + 1
            raise RefusedError(
                f"line {line} is not UTF-8 text; name the encoding, such as --encoding cp1252 (Excel on Windows in "
                "Western Europe and America), or save the file as \u201cCSV UTF-8\u201d"
            ) from None
    first, end, _ = text.partition("\n")
    plain = bool(end) and not marked and (headless or not first.endswith("\r"))
    # A lone \r is part of a value there. Python's other line breaks (form feed, U+2028) always are.
    unix = plain or format in FORMATS[2:]
    return list(io.StringIO(text, newline="\n" if unix else "")), plain


def _formats(delimiter: str, *, plain: bool, quoted: bool) -> Sequence[str]:
    """Return the formats to try. Of files with tabs, Excel's have quotes, a byte order mark or the line ends of
    Windows; the last two are also added to the output of the mysql client by PowerShell."""
    if delimiter != "\t":
        return _ENCLOSED
    return ("mysql", "outfile") if plain else _ENCLOSED if quoted else (_ENCLOSED[0], "mysql")


def _reading(
    lines: list[str], dialect: _Dialect, columns: Sequence[str] | None, required: Sequence[str], skipped: int
) -> Export | None:
    """Return the rows as this dialect reads them; None when it finds no such table."""
    first = next(_records(lines, 0, dialect), None)
    if first is None:
        return None
    titles = [cell.strip().lower() for cell in first.cells]
    names = [name.strip().lower() for name in columns] if columns else titles
    if any(name not in names for name in required):
        return None
    if columns and all(name in titles for name in required):
        raise RefusedError("line 1 names the columns: leave --columns out")
    records, start = list[Record](), 0 if columns else first.height
    while start < len(lines):
        for found in _records(lines, start, dialect):
            cells = found.cells
            while len(cells) > len(names) and not cells[-1].strip():  # Excel adds empty columns
                cells.pop()
            problem = found.problem
            if not problem and any(cell.strip() for cell in cells) and len(cells) != len(names):
                problem = f"has {len(cells)} columns instead of {len(names)}"
            if problem or any(cell.strip() for cell in cells):
                damaged = _NO_TEXT if any(_UNREADABLE in cell for cell in cells) else None
                records.append(Record(start + 1 + skipped, cells, problem or damaged))
            start += 1 if problem else found.height
            if problem:
                break  # a quote that is never closed must not swallow the rows behind it
        else:
            break
    return Export(names, records)


class _Found(NamedTuple):
    height: int  # in lines
    cells: list[str]
    problem: str | None = None


def _records(lines: list[str], start: int, dialect: _Dialect) -> Iterator[_Found]:
    return (_enclosed if dialect.format in _ENCLOSED else _unenclosed)(lines, start, dialect)


def _enclosed(lines: list[str], start: int, dialect: _Dialect) -> Iterator[_Found]:
    """Yield the records by the csv module, up to the first that cannot be read."""
    escaped = dialect.format in _BY_BACKSLASH
    reader = csv.reader(
        (_for_csv(lines[n], dialect.delimiter) if escaped else lines[n] for n in range(start, len(lines))),
        delimiter=dialect.delimiter,
        escapechar="\\" if escaped else None,
        strict=True,
    )
    before = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _Unknown) as error:
            why = next((words for found, words in _CSV_PROBLEMS if re.match(found, str(error))), str(error))
            yield _Found(1, [lines[start + before].rstrip("\r\n")], f"cannot be read as CSV: {why}")
            return
        yield _Found(reader.line_num - before, cells)
        before = reader.line_num


class _Unknown(ValueError):
    """Raised for a backslash that the writer of a format never writes."""


def _for_csv(line: str, delimiter: str) -> str:
    r"""Return a line without what the csv module does not know: \N is NULL, \0 is the character NUL."""

    def known(found: re.Match[str]) -> str:
        if found[1] not in f'\\"N0\r\n\t{delimiter}':
            raise _Unknown(f"{found[0]} means nothing in this format")
        return {"N": "", "0": "\\\0"}.get(found[1], found[0])

    return re.sub(r"\\(.|\Z)", known, line, flags=re.DOTALL)


def _unenclosed(lines: list[str], start: int, dialect: _Dialect) -> Iterator[_Found]:
    """Yield the records of a format without quotes, which the csv module cannot read."""
    cell = re.compile(rf"(?:[^\\{re.escape(dialect.delimiter)}]|\\.)*", re.DOTALL)
    while start < len(lines):
        body, count = lines[start], 1
        while dialect.format == "outfile" and _continues(body) and start + count < len(lines):
            body, count = body + lines[start + count], count + 1
        body = body.removesuffix("\n").removesuffix("\r")
        cells, at, problem = list[str](), 0, None
        while at <= len(body):
            found = cell.match(body, at)
            assert found is not None
            try:
                cells.append(_unescaped(found[0], dialect))
            except _Unknown as error:
                problem = f"cannot be read as {dialect.format}: {error}"
            at = found.end() + 1
            if body[at - 1 : at] not in ("", dialect.delimiter):
                problem = f"cannot be read as {dialect.format}: it ends with a backslash"
                break
        yield _Found(count, cells, problem)
        start += count


def _continues(line: str) -> bool:
    """Return whether the end of a line is part of a value: a backslash that is not escaped itself stands before it."""
    before = line.removesuffix("\n")
    return line != before and (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _unescaped(cell: str, dialect: _Dialect) -> str:
    if dialect.format == "outfile" and cell == "\\N":
        return ""
    meanings = {"\\": "\\", "0": "\0"}
    if dialect.format == "mysql":
        meanings |= {"n": "\n", "t": "\t"}
    else:
        meanings |= {each: each for each in ('"', "\r", "\n", dialect.delimiter)}

    def meaning(found: re.Match[str]) -> str:
        if found[1] not in meanings:
            raise _Unknown(f"{found[0]} means nothing in this format")
        return meanings[found[1]]

    return re.sub(r"\\(.)", meaning, cell, flags=re.DOTALL)


def _unread(export: Export) -> int:
    return sum(record.problem is not None for record in export.records)


def _shown(export: Export) -> list[tuple[int, list[str]]]:
    """Return what of an export counts when two readings are compared."""
    return [
        (record.line, [] if record.problem else ["" if cell.strip() in NULLS else cell for cell in record.cells])
        for record in export.records
    ]


def _refuse_others(first: str, columns: Sequence[str] | None, required: Sequence[str], table: str) -> None:
    for pattern, what in _NO_ROWS.items():
        if re.match(rf"\s*(?:{pattern})", first, re.IGNORECASE):
            raise RefusedError(f"the file {what}")
    names = [name.strip().lower() for name in (columns or re.split(rf"[{_DELIMITERS}]", first.replace('"', "")))]
    missing = ", ".join(name for name in required if name not in names)
    where = "--columns" if columns else "line 1"
    raise RefusedError(
        f"{where} must name the columns of {table}; missing: {missing or 'one separator between all of them'}"
        + ("" if columns else " (for a file without this line, name its columns with --columns)")
    )
