"""Search for planted secrets in everything a run wrote: files, command lines, every column of every table."""

import base64
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection


def forms(word: str) -> set[bytes]:
    """Return a word in all forms in which it may be written: plain, quoted, hexadecimal, inside a longer base64."""
    plain = word.encode()
    found = {plain, quote(word, safe="").encode(), plain.hex().encode()}
    for shift in range(
        3
    ):  # the alphabet's groups of three bytes begin anywhere; the outer characters mix with neighbours
        coded = base64.b64encode(b"\0" * shift + plain).rstrip(b"=")
        found.add(coded[-(-shift * 8 // 6) + (shift > 0) : -1])
    return found


def search(places: Iterable[tuple[str, bytes]], planted: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return (place, name of the secret) of each one found."""
    looked_for = {name: forms(word) for name, word in planted.items()}
    return {
        (place, name)
        for place, content in places
        for name, words in looked_for.items()
        if any(word in content or word in _unfolded(content) for word in words)
    }


def _unfolded(content: bytes) -> bytes:
    """Return the content without the soft line breaks of quoted-printable."""
    return content.replace(b"=\r\n", b"").replace(b"=\n", b"")


def files_below(folder: Path, *, besides: Iterable[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield every file and its name, except below the given folders."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in besides:
            yield str(name), str(name).encode() + b"\n" + path.read_bytes()


def command_lines(pids: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Yield the command lines, which any user of the machine can read."""
    for pid in pids:
        yield f"command line of {pid}", Path(f"/proc/{pid}/cmdline").read_bytes()


def cells(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield every column of every table of a database."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            columns = connection.execute(
                text("""SELECT c.table_schema, c.table_name, c.column_name FROM information_schema.columns c
                        JOIN information_schema.tables t USING (table_schema, table_name)
                        WHERE c.table_schema NOT IN ('pg_catalog', 'information_schema')
                          AND t.table_type = 'BASE TABLE'""")
            ).all()
            for schema, table, column in columns:
                yield f"{schema}.{table}.{column}", _content(connection, schema, table, column)
    finally:
        engine.dispose()


def _content(connection: Connection, schema: str, table: str, column: str) -> bytes:
    values = connection.exec_driver_sql(f'SELECT "{column}" FROM "{schema}"."{table}"').scalars()
    return b"\n".join(_bytes(value) for value in values if value is not None)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes | memoryview):
        return str(value).encode()
    raw = bytes(value)
    try:
        return raw + b"\n" + zlib.decompress(raw)  # Dagster's snapshots
    except zlib.error:
        return raw
