"""Documents describe what is there: every test, command, file, setting, process and table they name exists."""

import ast
import re
from pathlib import Path

import click
import pytest

from smi_pipeline.cli import smi
from smi_pipeline.core.lifecycle import TRANSITIONS
from smi_pipeline.services.intake import HANDLED_EVENTS
from smi_pipeline.settings import Settings
from smi_pipeline.stack.process_plan import plan

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "deploy/*.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # it names what was there before
)
RULES = {
    title: body
    for title, _, body in (part.partition("\n") for part in (ROOT / "docs/money-rules.md").read_text().split("\n## "))
    if not title.startswith("#")
}

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def _code(document: Path) -> list[str]:
    """Return what a document sets in `code`, without its blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S))


@pytest.fixture(scope="session")
def defined() -> set[str]:
    """The names of all test functions."""
    sources = (path.read_text() for path in (ROOT / "smi_pipeline_tests").rglob("test_*.py"))
    return {name for source in sources for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", source, re.M)}


@documents
def test_each_test_that_a_document_names_exists(document: Path, defined: set[str]) -> None:
    assert {word for word in _code(document) if re.fullmatch(r"test_\w+", word)} - defined == set()


def test_each_test_and_command_of_the_threat_model_exists(defined: set[str]) -> None:
    model = (ROOT / "docs" / "threat-model.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", model))
    assert len(named) > 30
    assert named - defined == set()
    for row in (line for line in model.split("## Remaining risks")[0].splitlines() if line.startswith("| ")):
        if not row.startswith(("| what happens", "| what is tried", "| fault |")):
            assert "`test_" in row, f"no test in: {row}"


@pytest.mark.parametrize("rule", RULES)
def test_each_money_rule_is_held_by_tests_that_exist(rule: str, defined: set[str]) -> None:
    tests = set(re.findall(r"^- `(test_\w+)`$", RULES[rule], re.M))
    assert tests
    assert tests - defined == set()


@documents
def test_each_make_target_that_a_document_names_exists(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^make ([\w-]+)", document.read_text(), re.M))
    named |= {match[1] for word in _code(document) if (match := re.match(r"make ([\w-]+)", word))}
    assert named - targets == set()


@documents
def test_each_command_that_a_document_names_exists(document: Path) -> None:
    for word in _code(document):
        match = re.match(r"(?:\.venv/bin/)?smi ([a-z-]+)(?: ([a-z|-]+))?", word)
        if match is None:
            continue
        command = smi.commands.get(match[1])
        assert command is not None, word
        for action in (match[2] or "").split("|"):
            group = command if isinstance(command, click.Group) else click.Group()
            assert not action or group.get_command(click.Context(group), action), word


@documents
def test_each_file_that_a_document_names_exists(document: Path) -> None:
    bases = (ROOT, ROOT / "smi_pipeline", ROOT / "smi_pipeline_tests")
    path = re.compile(r"(?:[a-z0-9_.-]+/)+(?:[a-z0-9_-]+\.(?:py|md|yaml|html|j2))?")
    named = {word for word in _code(document) if path.fullmatch(word)} - {"reports/"}  # of the storage
    assert {word for word in named if not any((base / word).exists() for base in bases)} == set()


@documents
def test_each_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(path), target


def _anchors(document: Path) -> set[str]:
    text = document.read_text()
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles} | set(
        re.findall(r'<a id="([\w-]+)">', text)
    )


def test_each_place_of_a_document_that_the_code_names_exists() -> None:
    for path in [*(ROOT / "smi_pipeline").rglob("*.py"), *(ROOT / "smi_pipeline_tests").rglob("*.py")]:
        for name, anchor in re.findall(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", path.read_text()):
            assert (ROOT / name).exists(), f"{path}: {name}"
            assert not anchor or anchor in _anchors(ROOT / name), f"{path}: {name}#{anchor}"


@documents
def test_each_setting_that_a_document_names_exists(document: Path) -> None:
    named = {word for word in _code(document) if re.fullmatch(r"(?:SMI|STRIPE|UPSAMPLER|SMTP)_[A-Z_]+", word)}
    set_by_the_stack = {"SMI_CELERY_BACKEND_URL"}
    assert {name for name in named if name.lower() not in Settings.model_fields} - set_by_the_stack == set()


def test_the_diagram_of_the_life_cycle_is_the_table_of_transitions() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawn = [
        (source, target, name)
        for source, target, names in re.findall(r"^  (\w+) --> (\w+): (.+)$", text, re.M)
        for name in names.split(", ")
    ]
    assert sorted(drawn) == sorted((str(source), str(target), name) for source, target, name in TRANSITIONS)


def test_each_function_that_the_architecture_places_in_a_module_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    placed = re.findall(r"`([a-z_/]+\.py)`: ((?:`\w+`(?: \([^)]*\))?(?:, )?)+)", text)
    assert len(placed) > 10
    for module, functions in placed:
        tree = ast.parse((ROOT / "smi_pipeline" / module).read_text())
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        outside_of_words = re.sub(r"\([^)]*\)", "", functions)
        assert set(re.findall(r"`(\w+)`", outside_of_words)) - there == set(), module


def test_the_stripe_events_of_the_document_are_those_that_are_handled() -> None:
    table = (ROOT / "docs" / "external-services.md").read_text().split("| event | effect |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z_.]+)`", table)) == set(HANDLED_EVENTS)


def test_the_processes_of_the_architecture_are_those_that_are_started(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "architecture.md").read_text().split("## Which process runs what")[1].split("\n## ")[0]
    started = plan({}, tmp_path, dagster_port=1, gateway_port=2, workers=1, analysts_port=3).commands
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.M)) == set(started)


def test_the_layout_of_the_readme_is_that_of_the_package() -> None:
    block = (ROOT / "README.md").read_text().split("## Layout")[1].split("```")[1]
    named = {name.rstrip("/") for name in re.findall(r"^  ([\w.]+/?) ", block, re.M)}
    package = ROOT / "smi_pipeline"
    folders = {path.parent.name for path in package.glob("*/*") if not path.parent.name.startswith("__")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "cli.py", "settings.py"}
    assert named == folders | modules


def test_each_decision_is_listed_and_says_status_context_decision_and_consequences() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    pages = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, start=1):
        text = page.read_text()
        title = re.match(rf"# {number}\. (.+)\n\n\*\*Status:\*\* \w+", text)
        assert title, page.name
        assert f"| {number} | [{title[1]}]({page.name}) |" in index
        assert re.findall(r"^## (.+)$", text, re.M) == ["Context", "Decision", "Consequences"], page.name


def test_the_private_modules_of_dagster_are_those_that_the_decision_names() -> None:
    page = next((ROOT / "docs/adr").glob("*private-modules*.md")).read_text()
    named = set(re.findall(r"^\| `(dagster\._[\w.]+)` \|", page, re.M))
    sources = [*(ROOT / "smi_pipeline").rglob("*.py"), *(ROOT / "smi_pipeline").rglob("*.yaml"), *ROOT.glob("*.yaml")]
    used = {module for path in sources for module in re.findall(r"\bdagster(?:_\w+)?\._[\w.]+", path.read_text())}
    assert used == named


def test_the_glossary_is_in_alphabetical_order() -> None:
    terms = re.findall(r"^(?:<a .*?</a>)?\*\*(.+?)\*\* — ", (ROOT / "docs/glossary.md").read_text(), re.M)
    assert len(terms) > 30
    assert terms == sorted(terms, key=str.casefold)
