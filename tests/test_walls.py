"""What may import what: the reader and the pages know nothing of torch, and no module imports one that needs it."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import python

import mnist_fastai

PACKAGE = Path(mnist_fastai.__file__).parent
HEAVY = {"torch", "torchvision", "fastai", "matplotlib"}


@cache
def modules() -> dict[str, Path]:
    """The path of each module of the package, by its name."""
    paths = (
        p for p in PACKAGE.rglob("*.py") if not p.is_relative_to(PACKAGE / "cli")
    )  # a link to cli/, where it is one
    return {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def walled() -> list[str]:
    return [m for m in modules() if m.startswith(("mnist_fastai.reader", "mnist_fastai.pages"))]


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every import below a node, also in functions; none that is for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from statements(ast.Module([other], []))
        else:
            yield from statements(child)


def imports(source: str, module: str, is_package: bool, known) -> set[str]:
    """The full names that a module imports: modules where they are `known`, else what stands in the statement."""
    out = set()
    for statement in statements(ast.parse(source)):
        if isinstance(statement, ast.Import):
            out |= {alias.name for alias in statement.names}
            continue
        base = statement.module or ""
        if statement.level:
            parts = module.split(".")
            parent = parts[: len(parts) - statement.level + is_package]
            base = ".".join([*parent, *([base] if base else [])])
        out |= {full if (full := f"{base}.{alias.name}") in known else base for alias in statement.names}
    return out


@cache
def graph() -> dict[str, set[str]]:
    return {m: imports(p.read_text(), m, p.name == "__init__.py", modules()) for m, p in modules().items()}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, the last being the first; empty where there is no such circle."""
    try:
        TopologicalSorter({m: names & graph.keys() for m, names in graph.items()}).prepare()
    except CycleError as e:
        return e.args[1][::-1]
    return []


def test_the_reader_and_the_pages_load_neither_torch_nor_fastai_nor_matplotlib(tmp_path):
    assert {f"mnist_fastai.reader.{name}" for name in ("image", "ink", "form", "session", "classifier")} < set(walled())
    code = f"import sys, {', '.join(walled())}; print(*sys.modules)"
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("module", walled())
def test_not_even_an_import_in_a_function_leads_there(module):
    ways, todo = {module: [module]}, [module]  # by which modules each is reached
    while todo:
        here = todo.pop()
        for name in graph().get(here, ()):
            assert name.partition(".")[0] not in HEAVY, " imports ".join([*ways[here], name])
            if name not in ways:
                ways[name] = [*ways[here], name]
                todo.append(name)


def test_imports_run_one_way():
    assert not (cycle := find_cycle(graph())), " imports ".join(cycle)


def test_a_cycle_is_found_wherever_the_import_stands():
    known = {"p", "p.a", "p.b", "p.q", "p.q.c"}
    sources = {
        "p.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .q import c\nimport p.b",
        "p.b": "def f():\n    from . import q\n    from .q.c import g",
        "p.q": "from .c import g",
        "p.q.c": "import json",
    }
    found = {m: imports(text, m, m == "p.q", known) for m, text in sources.items()}
    assert found == {"p.a": {"typing", "p.b"}, "p.b": {"p.q", "p.q.c"}, "p.q": {"p.q.c"}, "p.q.c": {"json"}}
    assert find_cycle(found) == []
    found["p.q.c"] = imports("class C:\n    def f(self):\n        from .. import a", "p.q.c", False, known)
    cycle = find_cycle(found)
    assert cycle[0] == cycle[-1]
    assert {"p.a", "p.b", "p.q.c"} <= set(cycle)
    assert all(later in found[earlier] for earlier, later in pairwise(cycle))
