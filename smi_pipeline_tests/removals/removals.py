"""What is taken away: found in the source where it follows a pattern, named here where it does not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

POSTGRES = Path("smi_pipeline/state")
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
        """Changes the file below `root`."""
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

NAMED: tuple[tuple[str, str, Path, str, str], ...] = (
    (
        "intent",
        "the submission's row before the call to Upsampler",
        SERVICES / "submit.py",
        "ctx.state.submissions.begin(job.job_id, lease_id, actor=ctx.actor)",
        '(0, "t" * 43)',
    ),
    (
        "intent",
        "amount and key of a refund before the call to Stripe",
        SERVICES / "refund.py",
        "ctx.state.refunds.intend(row.refund_row, lease_id, rest, renew_key=too_old or changed)",
        "row",
    ),
    (
        "intent",
        "the hand-over of a mail before it is sent",
        SERVICES / "notify.py",
        "not ctx.state.emails.hand_over(email, lease_id, mail.content)",
        "False",
    ),
    ("outcome", "the outcome's row of a job", POSTGRES / "outcomes.py", "INSERT INTO smi.outcomes", "EXPLAIN {}"),
    ("inbox", "the inbox row of a Stripe event", POSTGRES / "inbox.py", "INSERT INTO smi.webhook_inbox", "EXPLAIN {}"),
)


def all_removals(root: Path) -> list[Removal]:
    """Every removal in the source below `root`. Raises ValueError when a named one is not found exactly once."""
    return [*_found(root), *_named(root)]


def _found(root: Path) -> Iterator[Removal]:
    for folder, kind, patterns in (
        (POSTGRES / "migrations" / "versions", "unique index", _UNIQUE),
        (POSTGRES, "lease condition", _LEASE),
    ):
        for path in sorted((root / folder).glob("*.py")):
            source = path.read_text()
            for pattern, instead in patterns:
                for match in pattern.finditer(source):
                    what = _method(source, match.start()) if kind == "lease condition" else _table(source, match)
                    yield Removal(kind, what, path.relative_to(root), match.start(), match.end(), match.expand(instead))


def _named(root: Path) -> Iterator[Removal]:
    for kind, what, file, text, instead in NAMED:
        source = (root / file).read_text()
        if source.count(text) != 1:
            raise ValueError(f"{file} holds {text!r} {source.count(text)} times; name the removal anew")
        start = source.index(text)
        yield Removal(kind, what, file, start, start + len(text), instead.format(text))


def _table(source: str, match: re.Match[str]) -> str:
    index = re.match(r"CREATE UNIQUE INDEX (\w+)", match.group())
    if index:
        return index.group(1)
    table = re.findall(r"CREATE TABLE (smi\.\w+)", source[: match.start()])[-1]
    return f"{table} ({match.group(1)})"


def _method(source: str, position: int) -> str:
    return re.findall(r"def (\w+)\(", source[:position])[-1] + "()"
