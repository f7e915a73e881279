"""What is taken away, found by its meaning (a call by name, SQL by table and column), so that renames break nothing."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STATE = Path("smi_pipeline/state")
MIGRATIONS = STATE / "migrations" / "versions"
SERVICES = Path("smi_pipeline/services")


@dataclass(frozen=True)
class Removal:
    """One change of one file: the text from `start` to `end` becomes `instead`."""

    kind: str
    what: str
    file: Path
    start: int
    end: int
    instead: str

    def apply(self, root: Path) -> None:
        """Change the file below `root`."""
        path = root / self.file
        source = path.read_text()
        path.write_text(source[: self.start] + self.instead + source[self.end :])


_UNIQUE = (
    (re.compile(r"CREATE UNIQUE INDEX (\w+)"), r"CREATE INDEX \1"),
    (re.compile(r"^    (\w+) +text (?:NOT NULL )?UNIQUE", re.M), r"    \1 text"),
    (re.compile(r",\n    (?:PRIMARY KEY|UNIQUE) \(([\w, ]+)\)"), ""),
    (re.compile(r"^    (\w+) +text PRIMARY KEY(?=,\n    (?:type|job_id))", re.M), r"    \1 text"),
)
_LEASE = (
    (re.compile(r" AND (?:\w\.)?lease_id = :lease(?:_id)?\b"), ""),
    (re.compile(r" AND lease_until > smi\.now\(\)"), ""),
    (re.compile(r" AND \(lease_id IS NULL OR lease_until <= smi\.now\(\)\)"), ""),
    (re.compile(r'"lease_id IS NULL"'), '"true"'),
)

CALLS: tuple[tuple[str, str, Path, str, str], ...] = (
    (
        "intent",
        "the submission's row before the call to Upsampler",
        SERVICES / "submit.py",
        "ctx.state.submissions.begin",
        '(0, "t" * 43)',
    ),
    (
        "intent",
        "amount and key of a refund before the call to Stripe",
        SERVICES / "refund.py",
        "ctx.state.refunds.intend",
        "row",
    ),
    (
        "intent",
        "the hand-over of a mail before it is sent",
        SERVICES / "notify.py",
        "ctx.state.emails.hand_over",
        "True",
    ),
)
"""Kind, what it is, file, the call that is taken away, and what takes its place."""

INSERTS = {
    "outcome": ("smi.outcomes", "the outcome's row of a job"),
    "inbox": ("smi.webhook_inbox", "the inbox row of a Stripe event"),
    "refund": ("smi.refunds", "the row of a refund, where it is decided"),
}
"""Per kind the table whose rows are not written any more; external refunds and imported history write theirs."""

_NOT_THESE = ("imported_jobs.py", "refund_updates.py")

GUARDS: tuple[tuple[str, str, Path, re.Pattern[str], str], ...] = (
    (
        "transition",
        "the trigger that knows the transitions",
        MIGRATIONS,
        re.compile(r"IF \(OLD\.status, NEW\.status\) NOT IN \(\{"),
        "IF false AND (OLD.status, NEW.status) NOT IN ({",
    ),
    (
        "transition",
        "the status from which a transition begins",
        STATE,
        re.compile(r" AND status = '\{source\}'"),
        "",
    ),
)


def all_removals(root: Path) -> list[Removal]:
    """Every removal in the source below `root`. Raise ValueError when a named one is not found exactly once."""
    return [
        *_patterns(root, "unique index", MIGRATIONS, _UNIQUE),
        *_patterns(root, "lease condition", STATE, _LEASE),
        *(_call(root, *call) for call in CALLS),
        *(_insert(root, kind, table, what) for kind, (table, what) in INSERTS.items()),
        *(_once(_matches(root, *guard), guard[1]) for guard in GUARDS),
    ]


def _patterns(
    root: Path, kind: str, folder: Path, patterns: tuple[tuple[re.Pattern[str], str], ...]
) -> Iterator[Removal]:
    for path in sorted((root / folder).glob("*.py")):
        source = path.read_text()
        for pattern, instead in patterns:
            for match in pattern.finditer(source):
                what = _place(source, match.start()) if kind == "lease condition" else _table(source, match)
                yield Removal(kind, what, path.relative_to(root), match.start(), match.end(), match.expand(instead))


def _call(root: Path, kind: str, what: str, file: Path, name: str, instead: str) -> Removal:
    """The one call of this name in a file."""
    source = (root / file).read_text()
    found = [
        Removal(kind, what, file, *_span(source, node), instead)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]
    return _once(found, f"{name} in {file}")


def _insert(root: Path, kind: str, table: str, what: str) -> Removal:
    """The one statement of the state that inserts into a table: it is explained instead."""
    pattern = re.compile(rf"INSERT INTO {re.escape(table)}\b")
    found = [r for r in _matches(root, kind, what, STATE, pattern, f"EXPLAIN INSERT INTO {table}")]
    return _once([r for r in found if r.file.name not in _NOT_THESE], f"an INSERT INTO {table}")


def _matches(root: Path, kind: str, what: str, folder: Path, pattern: re.Pattern[str], instead: str) -> list[Removal]:
    return [
        Removal(kind, what, path.relative_to(root), match.start(), match.end(), instead)
        for path in sorted((root / folder).glob("*.py"))
        for match in pattern.finditer(path.read_text())
    ]


def _once(found: list[Removal], what: str) -> Removal:
    if len(found) != 1:
        raise ValueError(f"{what} was found {len(found)} times; name the removal anew")
    return found[0]


def _span(source: str, node: ast.Call) -> tuple[int, int]:
    """Where a call begins and ends in its source, which is ASCII up to the ends of the lines before it."""
    lines = source.splitlines(keepends=True)

    def at(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno or node.lineno, node.end_col_offset or 0)


def _table(source: str, match: re.Match[str]) -> str:
    index = re.match(r"CREATE UNIQUE INDEX (\w+)", match.group())
    if index:
        return index.group(1)
    table = re.findall(r"CREATE TABLE (smi\.\w+)", source[: match.start()])[-1]
    return f"{table} ({match.group(1)})"


def _place(source: str, position: int) -> str:
    """The last function or module-level name that begins before this position."""
    return re.findall(r"def \w+(?=\()|^\w+(?= = )", source[:position], re.M)[-1].removeprefix("def ")
