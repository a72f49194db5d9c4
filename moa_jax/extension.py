"""Classes and functions from users' own files, named by `package.module:name(option=1)`.

Config keys and command-line options take such names, so that nothing in this package has to be
edited. A module is imported when it is needed: from Python's own path, and then from the working
directory. Options are Python literals. A library that comes with an extra is imported here too.
"""

import ast
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from moa_jax.errors import InputError

FORM = "package.module:name(option=1)"


class Name(NamedTuple):
    """A parsed name."""

    module: str
    attribute: str
    options: dict[str, Any]


def is_name(text: str) -> bool:
    """Tell whether a text is a name of this form, and not a built-in one."""
    return ":" in text


def parse_name(text: str, key: str) -> Name:
    """Take a name apart, without importing anything.

    Args:
        key: the option that the name was given for, as the message calls it.

    Raises:
        InputError: the text has another form, or an option is not a literal.
    """
    module, _, rest = text.partition(":")
    try:
        # Parsed but never evaluated: the text may come from a downloaded file.
        node = ast.parse(rest.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])  # without options
        if not isinstance(call.func, ast.Name) or call.args or not module.strip():
            raise ValueError
        options = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise InputError(
            f"{key}={text!r}: must be of the form {FORM}, each option a Python literal"
        ) from error
    return Name(module.strip(), call.func.id, options)


def find(text: str, key: str) -> Callable[..., Any]:
    """Import what a name stands for: a class or a function, with its options filled in.

    Args:
        key: the option that the name was given for, as the message calls it.

    Returns:
        The class or function; if there are options, a `functools.partial` of it.

    Raises:
        InputError: there is no such module, nothing in it has that name, or it does not take an
            option; the message gives the nearest names.
    """
    name = parse_name(text, key)
    module = _import(name.module, f"{key}={text!r}")
    found = getattr(module, name.attribute, None)
    if not callable(found):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise InputError(
            f"{key}={text!r}: {name.module} has no class or function {name.attribute!r}"
            + _nearest(name.attribute, public)
        )
    taken = inspect.signature(found).parameters
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    for option in () if open_ended else name.options:
        if option not in taken:
            raise InputError(
                f"{key}={text!r}: {name.attribute} takes no option {option!r}"
                + _nearest(option, taken)
            )
    return partial(found, **name.options) if name.options else found


def require_imported(text: str, key: str) -> None:
    """Refuse a name from a downloaded file, unless this program has imported its module itself.

    Args:
        key: where the name stands, as the message calls it.

    Raises:
        InputError: the module is neither of this package nor imported; the message has the remedy.
    """
    module = parse_name(text, key).module
    if module.partition(".")[0] != "moa_jax" and module not in sys.modules:
        raise InputError(
            f"{key}={text!r}: these weights need code that does not come with moa_jax, and a file "
            f"must not run any: if you trust module {module!r}, import it first (sample.py: "
            f"--plugin {module})"
        )


def import_plugin(module: str) -> None:
    """Import a module, so that files may name its classes.

    Raises:
        InputError: there is no such module, or it does not run.
    """
    _import(module, f"--plugin {module}")


def import_extra(library: str, wanted: str, remedy: str) -> Any:
    """Import a library that not every installation has.

    Args:
        library: name of the module.
        wanted: what needs it, as the message calls it.
        remedy: how to install it, or to do without.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise InputError(f"{wanted} needs the library {library}: {remedy}") from error


def _import(module: str, where: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"there is no module {error.name!r}, nor {error.name}.py in {here}"
        raise InputError(f"{where}: {missing}") from error
    except Exception as error:
        raise InputError(
            f"{where}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error


def _nearest(wrong: str, names: Iterable[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.4) or sorted(names)[:6]
    return f"; the nearest: {', '.join(near)}" if near else ""
