"""The SQL of the state package, read from its source: which function writes which table."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import smi_pipeline.state

STATE = Path(smi_pipeline.state.__file__).parent

WRITE = re.compile(r"\b(INSERT INTO|DELETE FROM|(?<!FOR )UPDATE)\s+(smi\.(\w+)|…)")
"""A write and its table; `…` stands for what an f-string puts in."""


@dataclass(frozen=True)
class Statement:
    """One string with SQL. `function` is the one it stands in, "" for the module itself."""

    module: str
    function: str
    sql: str

    @property
    def writes(self) -> list[tuple[str, str]]:
        """(INSERT INTO, UPDATE or DELETE FROM; table)"""
        return [(verb, table or "…") for verb, _, table in WRITE.findall(self.sql)]


def modules(root: Path = STATE) -> Iterator[tuple[str, ast.Module]]:
    """Each module of the state beside its migrations and reports."""
    for path in sorted(root.glob("*.py")):
        yield path.stem, ast.parse(path.read_text())


def text_of(node: ast.AST) -> str | None:
    """The text of a string or f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return None


def strings(node: ast.AST) -> Iterator[str]:
    """All strings below a node, an f-string as one."""
    text = text_of(node)
    if text is not None:
        yield text
        return
    for child in ast.iter_child_nodes(node):
        yield from strings(child)


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name of the class or "", function) of each function and method."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield node.name, method


def statements() -> Iterator[Statement]:
    """Every string of the state's functions and constants."""
    for module, tree in modules():
        inside = set()
        for _, function in functions(tree):
            inside.add(function)
            for text in strings(function):
                yield Statement(module, function.name, text)
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                for text in strings(node):
                    yield Statement(module, "", text)


def committing_methods() -> set[str]:
    """`Class.method` of each public method that opens a transaction, or has the database open one for its only
    statement, and writes in it, itself or by a function that it hands the transaction to."""
    bodies: dict[str, list[ast.FunctionDef]] = {}
    for _, tree in modules():
        for _, function in functions(tree):
            if "tx" in {argument.arg for argument in function.args.args}:
                bodies.setdefault(function.name, []).append(function)
    writing: set[str] = set()
    while True:
        found = {
            name for name, candidates in bodies.items() if any(_writes(function, writing) for function in candidates)
        }
        if found == writing:
            break
        writing = found
    return {
        f"{owner}.{function.name}"
        for _, tree in modules()
        for owner, function in functions(tree)
        if owner and not function.name.startswith("_") and _commits(tree, owner, function, writing)
    }


def _commits(tree: ast.Module, owner: str, function: ast.FunctionDef, writing: set[str]) -> bool:
    source = ast.unparse(function)
    if "self._database." in source and _writes(function, writing):
        return True
    return any(
        other is not function and f"self.{other.name}(" in source and _commits(tree, owner, other, writing)
        for of, other in functions(tree)
        if of == owner and other.name.startswith("_")
    )


def _writes(function: ast.FunctionDef, writing: set[str]) -> bool:
    if any(WRITE.search(text) for text in strings(function)):
        return True
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and any(isinstance(a, ast.Name) and a.id == "tx" for a in call.args):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in writing:
                return True
    return False
