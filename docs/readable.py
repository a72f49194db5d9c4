"""What autodoc shows of the package, made readable: a part of `conf.py`.

Signatures stand as in the source, so that a shape reads `Float[Array, 'B H W D']` and a default by
its name. What a docstring says under "Returns" is one text, whatever colons it has.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

HIDDEN = {"self", "cls"}  # arguments that no caller gives


def signature(
    _: Any, what: str, __: str, thing: Any, ___: Any, arguments: str | None, ____: Any
) -> tuple[str, str] | None:
    """Return arguments and result as the source has them; None leaves autodoc's own."""
    if what not in ("class", "function", "method") or arguments is None:
        return None
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body
    except (OSError, TypeError, SyntaxError):
        return None
    names = vars(sys.modules[inspect.unwrap(thing).__module__])
    if isinstance(tree, ast.ClassDef):
        made = _maker(tree)
        return (f"({', '.join(_fields(tree, names))})" if made is None else _call(made, names), "")
    if isinstance(tree, ast.FunctionDef):
        result = "" if tree.returns is None else _shown(tree.returns, names)
        return _call(tree, names), result
    return None


def one_return(_: Any, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Make one field of what is returned, before napoleon takes its first colon for a type's."""
    if "Returns:" not in lines:
        return
    start = lines.index("Returns:")
    end = next((i for i in range(start + 1, len(lines)) if re.match(r"\S", lines[i])), len(lines))
    text = [line.strip() for line in lines[start + 1 : end] if line.strip()]
    lines[start:end] = [f":returns: {text[0]}", *(f"    {line}" for line in text[1:]), ""]


def skip(_: Any, __: str, ___: str, thing: Any, hidden: bool, ____: Any) -> bool | None:
    """Leave out a named tuple's fields as members: its docstring has said more about them."""
    return True if type(thing).__name__ in ("_tuplegetter", "member_descriptor") else None


def _maker(tree: ast.ClassDef) -> ast.FunctionDef | None:
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return next((node for node in functions if node.name == "__init__"), None)


def _fields(tree: ast.ClassDef, names: dict[str, Any]) -> Iterator[str]:
    """List the fields of a dataclass, a named tuple or a network."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            default = "" if node.value is None else f" = {ast.unparse(node.value)}"
            yield f"{ast.unparse(node.target)}: {_shown(node.annotation, names)}{default}"


def _call(tree: ast.FunctionDef, names: dict[str, Any]) -> str:
    arguments = tree.args
    arguments.args = [each for each in arguments.args if each.arg not in HIDDEN]
    return f"({ast.unparse(_Qualified(names).visit(arguments))})"


def _shown(annotation: ast.expr, names: dict[str, Any]) -> str:
    return ast.unparse(_Qualified(names).visit(annotation))


class _Qualified(ast.NodeTransformer):
    """Give the package's own types their full names, by which Sphinx makes links of them."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Take a type in quotes for the type, and a shape without the space of lone letters."""
        if not isinstance(node.value, str):
            return node
        if node.value in self._names:
            return self.visit(ast.Name(node.value))
        return ast.Constant(node.value.removeprefix(" "))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Write a class of this package with its module."""
        thing = self._names.get(node.id)
        if isinstance(thing, type) and thing.__module__.startswith("moa_jax."):
            return ast.Name(f"{thing.__module__}.{thing.__qualname__}")
        return node
