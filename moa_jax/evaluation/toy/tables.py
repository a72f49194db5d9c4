"""The tables that `python -m moa_jax.evaluation toy` makes: which rows each of them has.

The study asks what the parts of MoA are good for. The lab asks whether its neighbours do better in
its place. A table of one's own is a function that takes the configuration and lists its rows, named
by `package.module:function`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from moa_jax.config import Config
from moa_jax.errors import InputError
from moa_jax.evaluation.toy.rows import MOA, PRIOR, SINGLE, Row, make_rows
from moa_jax.extension import find, is_name, parse_name

LAB = "moa_jax.mixtures"
# Muon's learning rates beside the recipe's 0.01: what suits a copy need not suit small factors.
RATES = {"slow": 0.003, "fast": 0.03}


class Table(NamedTuple):
    """A table to make.

    Attributes:
        name: of its files, in `docs/evaluation`.
        title: of its page.
        rows: gives its rows for a configuration; the first is the prior, and one is called "moa".
        judged: whether the bars of the study are its own.
        option: of the command, with a space before it.
    """

    name: str
    title: str
    rows: Callable[[Config], Sequence[Row]]
    judged: bool = False
    option: str = ""

    @property
    def command(self) -> str:
        """What makes this table."""
        return f"python -m moa_jax.evaluation toy{self.option}"


def lab_rows(config: Config) -> list[Row]:
    """List neighbours in MoA's place, trained by MoA's recipe, below the study's rows of the same.

    Args:
        config: of MoA.
    """
    known = [row for row in make_rows(config) if row.name in (PRIOR, MOA, SINGLE)]
    return [
        *known,
        _row("lora-1", "LoRA, rank 1", "lowrank:Lora(rank=1)"),
        _row("lora-3", "LoRA, rank 3", "lowrank:Lora(rank=3)"),
        _row("lora-8", "LoRA, rank 8", "lowrank:Lora(rank=8)"),
        *(
            _row(
                f"lora-3-{pace}",
                f"LoRA, rank 3, Muon at {rate:g}",
                "lowrank:Lora(rank=3)",
                f"optimizer.muon_learning_rate={rate:g}",
            )
            for pace, rate in RATES.items()
        ),
        _row("shards", "MoS: a LoRA of shared shards", "shards:Mos"),
        _row("film", "MoFME: the prior's output, modulated", "adapters:Film"),
        _row("p-adapters", "P-Adapters: the prior reads another text", "prompts:PAdapters"),
        _row("subject-tokens", "MoT: own weights for subject tokens", "modalities:SubjectTokens"),
        _row("fine-blocks", "PR-MoE: experts in the fine blocks", "routers:Pyramid"),
        _row("noise-only", "MoDE: a router that sees the noise alone", "routers:NoiseOnly"),
        _row("dense-to-sparse", "EvoMoE: a router made sparse", "routers:DenseToSparse"),
        _row("per-subject", "one expert a subject", "prompts:PerSubject"),
        _row(
            "portrait-tokens",
            "MoVA: more of a portrait than one vector",
            "vision:VisionExperts",
            # It looks at portraits in its own way.
            f"data.encoded={config.data.encoded and f'{config.data.encoded}_portraits'}",
        ),
    ]


def _row(name: str, title: str, variant: str, *overrides: str) -> Row:
    return Row(name, title, (f"method.mixture={LAB}.{variant}", *overrides), seeds=3)


STUDY = Table("toy", "The toy world: the table", make_rows, judged=True)
TABLES = {
    "study": STUDY,
    "lab": Table("lab", "The mixture lab on the toy world", lab_rows, option=" --table lab"),
}


def find_table(name: str) -> Table:
    """Give the table of this name.

    Args:
        name: one of TABLES, or `package.module:function` of one's own rows.

    Raises:
        InputError: there is no such table, module or function.
    """
    if name in TABLES:
        return TABLES[name]
    if not is_name(name):
        raise InputError(f"--table {name}: must be {', '.join(TABLES)}, or package.module:function")
    own = parse_name(name, "--table").attribute
    title = own.replace("_", " ")
    return Table(own, title, find(name, "--table"), option=f" --table {name}")
