"""Check every record of a data set and gather all faults.

`python -m moa_jax.data check DIR` prints what this finds.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from moa_jax.data.captions import Tokenizer
from moa_jax.data.examples import faults
from moa_jax.data.record import Record, Records
from moa_jax.data.references import count_references


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        records: number of records.
        subjects: number of subjects in all records together.
        references: number of other pictures of these subjects.
        faults: what is wrong with each bad record, by its name.
    """

    records: int
    subjects: int
    references: int
    faults: dict[str, list[str]]


def check_records(
    records: Records,
    max_subjects: int,
    tokenizer: Tokenizer | None = None,
    workers: int = 8,
    on_record: Callable[[], None] = lambda: None,
) -> Report:
    """Find every fault of every record.

    Args:
        tokenizer: None means no check whether each subject's word is among the tokens that fit.
        workers: number of threads.
        on_record: called after each record, to show progress.
    """

    def look(index: int) -> tuple[Record, list[str]]:
        record = records[index]
        return record, faults(record, max_subjects, tokenizer)

    subjects, references, bad = 0, 0, {}
    with ThreadPoolExecutor(workers) as pool:
        for record, found in pool.map(look, range(len(records))):
            subjects += len(record.subjects)
            references += count_references(record.subjects)
            if found:
                bad[record.name] = found
            on_record()
    return Report(len(records), subjects, references, bad)
