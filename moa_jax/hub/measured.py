"""The table of an evaluation in a model card: from what the study on the toy world wrote, or given.

Numbers that lie beside weights are taken only if they were measured of these very weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moa_jax.errors import InputError
from moa_jax.method.weights import MoaCard

BESIDE = "evaluation.json"  # what the study writes beside the weights that it trained
COMMAND = "`python -m moa_jax.evaluation toy`"
KINDS = (
    "give toy.json, evaluation.json or a record (docs/evaluation/rows/*.json) of the study, or a "
    "Markdown file with a table"
)


def read_table(file: str | Path) -> str:
    """Read an evaluation, and lay it out as Markdown.

    Args:
        file: `toy.json`, `evaluation.json` or a row's record, as `python -m moa_jax.evaluation toy`
            writes them; or a Markdown file with a table, which is taken as it is.

    Raises:
        InputError: the file is missing, or is none of these.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"evaluation={str(path)!r} cannot be read ({error}): {KINDS}") from error
    if path.suffix.lower() == ".md":
        if not any(line.lstrip().startswith("|") for line in text.splitlines()):
            raise InputError(f"evaluation={str(path)!r} has no table in it: {KINDS}")
        return text.strip()
    try:
        found = json.loads(text)
        return _rows(found) if "rows" in found else _numbers(found["numbers"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"evaluation={str(path)!r} is no evaluation ({error!r}): {KINDS}"
        ) from error


def own_table(folder: Path, card: MoaCard) -> str | None:
    """Give the table of the `evaluation.json` that the study left beside weights.

    Returns:
        Markdown; None if there is no such file, or if its numbers are those of other weights, of
        another base, or of another version of the study.

    Raises:
        InputError: the file is damaged.
    """
    if not (folder / BESIDE).is_file():
        return None
    from moa_jax.evaluation.toy.study import run_key, study_key  # slow to import

    table = read_table(folder / BESIDE)  # first: it refuses a damaged file
    found = json.loads((folder / BESIDE).read_text(encoding="utf-8"))
    if found.get("run") != run_key(study_key(card.identity.fingerprints), folder):
        return None
    return table


def _rows(found: Mapping[str, Any]) -> str:
    """Lay out all rows of a study."""
    from moa_jax.evaluation.toy.findings import Results, RowResult
    from moa_jax.evaluation.toy.report import main_table

    rows = [
        RowResult(row["name"], row["title"], tuple(row["runs"]), tuple(row["seeds"]))
        for row in found["rows"]
    ]
    heads, lines = main_table(Results(found["renders"], rows, found["protocol"]))
    return _page(heads, lines)


def _numbers(numbers: Mapping[str, float]) -> str:
    """Lay out the numbers of one training, each in a line."""
    from moa_jax.evaluation.toy.findings import COLUMNS

    # The way from floor to ceiling is no number of one training alone: it takes the renders' too.
    lines = [
        [each.title, each.show([numbers[each.key]])] for each in COLUMNS if each.key in numbers
    ]
    if not lines:
        raise KeyError("identity/overall")
    return _page(["measure", "found"], lines)


def _page(heads: list[str], lines: list[list[str]]) -> str:
    from moa_jax.evaluation.toy.report import LEGEND, markdown_table

    about = (
        f"Measured by {COMMAND}: people, contexts and noise that no training saw, in the toy world "
        "that moa_jax renders. It says nothing about photographs."
    )
    return f"{about}\n\n{markdown_table(heads, lines)}\n\n{LEGEND.strip()}"
