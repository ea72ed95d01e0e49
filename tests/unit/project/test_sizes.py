"""No module, class or function of the package is too long to be read at once, but for those that say why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "cifarctl"
MODULE_LINES, CLASS_LINES, FUNCTION_LINES = 400, 300, 60
REASON = re.compile(r"^\s*Long because \S", re.MULTILINE)


def too_long(source: str) -> Iterator[str]:
    """What exceeds its limit and does not say why: its name, its length and the limit."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module):
            name, length, limit = "the module", len(source.splitlines()), MODULE_LINES
        elif isinstance(node, ast.ClassDef):
            name, length, limit = f"class {node.name}", lines(node), CLASS_LINES
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name, length, limit = f"function {node.name}", lines(node), FUNCTION_LINES
        else:
            continue
        if length > limit and REASON.search(ast.get_docstring(node) or "") is None:
            yield f"{name}: {length} lines, the limit is {limit}"


def lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a definition, from its first decorator to its end."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return (node.end_lineno or first) - first + 1


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_too_long(path: Path) -> None:
    assert list(too_long(path.read_text())) == []


def function(length: int, docstring: str) -> str:
    return "\n".join(["@decorator", "def f() -> None:", f'    """{docstring}"""', *["    pass"] * (length - 3)])


def test_a_function_over_the_limit_is_found() -> None:
    assert list(too_long(function(FUNCTION_LINES, "One."))) == []
    (found,) = too_long(function(FUNCTION_LINES + 1, "One."))
    assert found == "function f: 61 lines, the limit is 60"


def test_classes_and_modules_over_the_limit_are_found() -> None:
    source = "class C:\n" + "    x = 1\n" * CLASS_LINES + "y = 2\n" * MODULE_LINES
    assert sorted(too_long(source)) == [
        "class C: 301 lines, the limit is 300",
        "the module: 701 lines, the limit is 400",
    ]


def test_a_reason_exempts_only_its_own_definition() -> None:
    long = function(FUNCTION_LINES + 9, "One.\n\n    Long because it lists many options.\n    ")
    assert list(too_long(long)) == []
    assert list(too_long(function(FUNCTION_LINES + 9, "One. Not long because of anything."))) != []
    assert list(too_long(f'"""Long because of all."""\n{function(FUNCTION_LINES + 9, "One.")}')) != []
