"""Numbers without a study: what a row and the renders look like."""

from moa_jax.evaluation.toy.findings import COLUMNS
from moa_jax.evaluation.toy.protocol import Protocol, make_trials
from moa_jax.toyworld.readers.reading import ATTRIBUTES, CONTEXT

PROTOCOL = Protocol(contexts=1, noises=1, pairs=1)
TRIALS = make_trials(PROTOCOL)
PROMPT = (*CONTEXT, "word", "count")


def numbers(value):
    """A row whose every number is the same."""
    names = [f"identity/{name}" for name in ("overall", *ATTRIBUTES)]
    names += [f"prompt/{name}" for name in ("overall", *PROMPT)]
    return dict.fromkeys([*names, *(column.key for column in COLUMNS)], value)


def renders(accuracy=0.97):
    """Readers of one accuracy; identity goes from 0.4 to 0.9."""
    identity = {"floor": 0.4, "vae": 0.8, "ceiling": 0.9}
    return {
        "readers": dict.fromkeys((*CONTEXT, "count", "word", *ATTRIBUTES, "mask"), accuracy),
        **{name: dict.fromkeys(("overall", *ATTRIBUTES), v) for name, v in identity.items()},
        "prompt": dict.fromkeys(("overall", *PROMPT), 0.99),
        "fid": {"overall": 0.5},
    }
