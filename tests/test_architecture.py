"""The rules of the house that a program can check: who imports whom, how long, documented.

A file may pass MAX_FILE_LINES if its docstring says why, in words that begin with LONG_REASON.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "moa_jax").rglob("*.py"))
SCRIPTS = [
    path
    for folder in (".", "benchmarks", "configs", "examples", "spaces")
    for path in sorted((ROOT / folder).glob("*.py"))
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
LONG_REASON = "Longer than 300 lines because"

# A part imports only parts of the rows above its own: what lies in one row is independent.
ORDER = (
    {"errors"},
    {"extension", "section"},
    {"cli", "config", "figures", "runtime"},
    {"backbone", "diffusion", "data", "faces", "configs"},
    {"dataset", "method"},
    {"sampling", "mixtures"},
    {"applications", "training"},
    {"planning", "toyworld"},
    {"evaluation", "testing"},
    {"commands", "hub", "page"},
)
LEVEL = {part: level for level, row in enumerate(ORDER) for part in row}

# Whose papers were read and whose equations the tests check; of others no section is cited.
CITING_SECTIONS = ("moa_jax/diffusion/", "moa_jax/applications/edit.py")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: import by the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def libraries(path: Path) -> set[str]:
    return {imported.split(".")[0] for imported in imports(path)}


def part(path: Path) -> str:
    """Which part of the package a file is: its folder, or its own name at the top."""
    return path.relative_to(ROOT / "moa_jax").parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    dotted = (imported.split(".") for imported in imports(path))
    return {names[1] for names in dotted if names[0] == "moa_jax" and len(names) > 1}


def test_every_part_has_a_place_in_the_order():
    assert {part(path) for path in PACKAGE} - {"__init__"} <= set(LEVEL)


def test_imports_go_one_way():
    wrong = {}
    for path in PACKAGE:
        own = LEVEL.get(part(path), len(ORDER))  # moa_jax/__init__.py may offer anything,
        if path.name == "__main__.py":  # and a script may use anything
            own = len(ORDER)
        others = imported_parts(path) - {part(path), "__version__"}
        wrong[name(path)] = {other for other in others if LEVEL.get(other, own) >= own}
    assert not failing(wrong)


def test_no_module_lies_loose_at_the_top_but_these():
    loose = {part(path) for path in PACKAGE if path.parent == ROOT / "moa_jax"}
    assert loose == set("__init__ cli config errors extension runtime section".split())


def test_no_two_modules_import_each_other():
    """Taking away modules that import none of the others must leave none."""
    names = {module_name(path): path for path in PACKAGE}
    left = {name: names.keys() & reached(imports(path)) - {name} for name, path in names.items()}
    while ends := [name for name, others in left.items() if not others & left.keys()]:
        for name in ends:
            del left[name]
    assert not left


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def reached(dotted: set[str]) -> set[str]:
    """A name and the module that it may be of: `from a.b import c` is a.b.c or c in a.b."""
    return dotted | {name.rpartition(".")[0] for name in dotted}


def test_libraries_stay_where_they_belong():
    wrong = {name(path): libraries(path) & banned(path) for path in [*PACKAGE, *SCRIPTS]}
    assert not failing(wrong)


def banned(path: Path) -> set[str]:
    found = {"torch", "tests"}
    if name(path) in {f"benchmarks/{peer}.py" for peer in ("peers", "attention", "convolutions")}:
        found -= {"torch"}  # what we are compared with
    if path in PACKAGE:
        found |= {"train", "sample", "configs", "benchmarks"}
        scripts = "__main__ command options from_options addons cli".split()
        if path.stem not in scripts and part(path) != "commands":
            found |= {"argparse"}
        # `data`, and all that it may import:
        if part(path) in {"data", "errors", "config", "figures", "section"}:
            found |= {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
        if name(path) == "moa_jax/method/losses.py":
            found |= {"flax"}
    return found


def test_files_are_short_or_say_why_not():
    long = {}
    for path in [*PACKAGE, *SCRIPTS, *TESTS]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        excused = LONG_REASON in (ast.get_docstring(tree(path)) or "")
        long[name(path)] = 0 if lines <= MAX_FILE_LINES or excused else lines
    assert not failing(long)


def test_functions_are_short():
    long = {}
    for path in [*PACKAGE, *SCRIPTS]:
        functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
        lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
        long[name(path)] = {key: n for key, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert not failing(long)


def test_modules_and_public_names_have_docstrings():
    missing = {}
    for path in [*PACKAGE, *SCRIPTS]:
        module = tree(path)
        public = [node for node in module.body if is_public(node)]
        for owner in [node for node in public if isinstance(node, ast.ClassDef)]:
            public += [node for node in owner.body if is_public(node)]
        bare = [node for node in [module, *public] if not ast.get_docstring(node)]
        missing[name(path)] = [getattr(node, "name", "module") for node in bare]
    assert not failing(missing)


def test_no_section_is_cited_of_a_paper_that_was_not_read():
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *PACKAGE, *SCRIPTS]
    cited = {
        name(path): re.findall(r".*(?:Sec\.|Section|§) ?\d.*", path.read_text(encoding="utf-8"))
        for path in texts
        if not name(path).startswith(CITING_SECTIONS)
    }
    assert not failing(cited)


def is_public(node: ast.AST) -> bool:
    """Whether a definition is one that users meet; `setup` is Flax's own hook."""
    defines = isinstance(node, ast.FunctionDef | ast.ClassDef)
    return defines and not node.name.startswith("_") and node.name != "setup"


def failing(found: dict) -> dict:
    return {key: value for key, value in found.items() if value}


def test_every_module_imports_without_torch():
    code = """
import importlib, pkgutil, sys
from importlib.util import find_spec
sys.modules["torch"] = None  # makes every `import torch` fail
import moa_jax
# The two modules that are Gradio's page; every other imports without any extra.
extra = () if find_spec("gradio") else ("moa_jax.page.app", "moa_jax.page.layout")
for module in pkgutil.walk_packages(moa_jax.__path__, "moa_jax."):
    if not module.name.endswith("__main__") and module.name not in extra:
        importlib.import_module(module.name)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_drawing_imports_without_what_reads_training_data():
    code = "import sys; sys.modules['grain'] = None; import moa_jax.sampling.pipeline"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
