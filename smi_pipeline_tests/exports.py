"""Exports of a table as other programs write them, by their sources; None is NULL."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Row = Sequence[str | None]

TABLE = [
    "id", "job_id", "image_url", "resolution", "email", "post_id", "attachment_id", "image_width", "image_height",
    "source_type", "upload_file_path", "status", "upsampler_job_id", "upscaled_url", "upscaled_file_path",
    "stripe_payment_intent_id", "stripe_checkout_session_id", "payment_status", "amount_charged", "amount_cost",
    "credits_used", "download_token", "download_expires_at", "email_sent", "paid_at", "processing_started_at",
    "completed_at", "failed_at", "refunded_at", "refund_reason", "refund_amount", "created_at", "updated_at",
]  # fmt: skip
"""The columns of wp_smi_jobs."""


def phpmyadmin(names: Sequence[str], rows: Sequence[Row], *, escaped: str = '"', separator: str = ",") -> bytes:
    """ExportCsv.php: whatever is not empty is enclosed, numbers too. Before release 4 `escaped` was a backslash."""

    def cell(value: str | None) -> str:
        if not value:
            return "NULL" if value is None else ""
        if escaped != '"':
            value = value.replace(escaped, escaped * 2)
        return '"' + value.replace('"', escaped + '"') + '"'

    return "".join(separator.join(map(cell, row)) + "\n" for row in [names, *rows]).encode()


def phpmyadmin_excel(names: Sequence[str], rows: Sequence[Row]) -> bytes:
    """ExportExcel.php, edition Windows."""
    rows = [[value and re.sub("\r\n?", "\n", value) for value in row] for row in [names, *rows]]
    lines = phpmyadmin(rows[0], rows[1:], separator="\x1f").decode()  # type: ignore[arg-type]
    out, quoted = "", False
    for character in lines.replace("\x1f", ";"):
        quoted ^= character == '"'
        out += "\r\n" if character == "\n" and not quoted else character
    return out.encode()


def wp_cli(names: Sequence[str], rows: Sequence[Row]) -> bytes:
    """`wp db query "SELECT …" > FILE`: the mysql client with --batch."""
    escapes = {"\\": "\\\\", "\t": "\\t", "\n": "\\n"}

    def cell(value: str | None) -> str:
        return "NULL" if value is None else re.sub(r"[\\\t\n]", lambda found: escapes[found[0]], value)

    return "".join("\t".join(map(cell, row)) + "\n" for row in [names, *rows]).encode()


def power_shell(names: Sequence[str], rows: Sequence[Row]) -> bytes:
    """The same on Windows, whose shell writes what a program puts out in an encoding and with line ends of its own."""
    return wp_cli(names, rows).decode().replace("\n", "\r\n").encode("utf-16")


def into_outfile(rows: Sequence[Row], *, separator: str = "\t", enclosed: str = "") -> bytes:
    """`SELECT … INTO OUTFILE` (select_export::send_data of sql/sql_class.cc): no names of columns."""
    special = re.compile("[" + re.escape("\\\n" + (enclosed or separator)) + "]")

    def cell(value: str | None) -> str:
        return "\\N" if value is None else enclosed + special.sub(lambda found: "\\" + found[0], value) + enclosed

    return "".join(separator.join(map(cell, row)) + "\n" for row in rows).encode()


def excel(names: Sequence[str], rows: Sequence[Row], *, delimiter: str = ";", encoding: str = "utf-8-sig") -> bytes:
    """Saved by Excel: quotes only where they must be, the line ends of Windows, line feeds within cells."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([[(value or "").replace("\r", "") for value in row] for row in [names, *rows]])
    return text.getvalue().encode(encoding)


@dataclass(frozen=True)
class Writer:
    """A program, and what must be said of its files when they can be read in two ways."""

    name: str
    write: Callable[[Sequence[str], Sequence[Row]], bytes]
    format: str
    options: dict[str, str] = field(default_factory=dict)
    drops: str = ""  # characters that it does not write, or not as they are

    def __str__(self) -> str:
        return self.name


_COLUMNS = {"columns": ",".join(TABLE)}
WRITERS = [
    Writer("phpMyAdmin CSV", phpmyadmin, "csv"),
    Writer("phpMyAdmin CSV, old", lambda n, r: phpmyadmin(n, r, escaped="\\", separator=";"), "csv-backslash"),
    Writer("phpMyAdmin CSV for MS Excel", phpmyadmin_excel, "csv", drops="\r"),
    Writer("wp-cli", wp_cli, "mysql"),
    Writer("INTO OUTFILE", lambda n, r: into_outfile(r), "outfile", _COLUMNS),
    Writer(
        "INTO OUTFILE, enclosed",
        lambda n, r: into_outfile(r, separator=",", enclosed='"'),
        "csv-backslash",
        _COLUMNS,
    ),
    Writer("Excel, semicolons", excel, "csv", drops="\r"),
    Writer("Excel, commas, no mark", lambda n, r: excel(n, r, delimiter=",", encoding="utf-8"), "csv", drops="\r"),
    Writer("Excel, Unicode text", lambda n, r: excel(n, r, delimiter="\t", encoding="utf-16"), "csv", drops="\r"),
    Writer(
        "Excel, Windows-1252",
        lambda n, r: excel(n, r, encoding="cp1252"),
        "csv",
        {"encoding": "cp1252"},
        drops="\r" + "".join(chr(n) for n in range(0x7F, 0xA0)) + "ह😀",
    ),
]
