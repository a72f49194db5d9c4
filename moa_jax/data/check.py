"""Check every record of a data set and gather all faults.

`python -m moa_jax.data check DIR` prints what this finds.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from moa_jax.data.buckets import Buckets, Fit, Size, group
from moa_jax.data.captions import Tokenizer
from moa_jax.data.examples import read_record
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
        buckets: the good records by the size that they are cropped to; None if that was not asked.
    """

    records: int
    subjects: int
    references: int
    faults: dict[str, list[str]]
    buckets: Buckets | None = None


def check_records(
    records: Records,
    max_subjects: int,
    tokenizer: Tokenizer | None = None,
    workers: int = 8,
    on_record: Callable[[], None] = lambda: None,
    fit: Fit | None = None,
) -> Report:
    """Find every fault of every record.

    Args:
        tokenizer: None means no check whether each subject's word is among the tokens that fit.
        workers: number of threads.
        on_record: called after each record, to show progress.
        fit: the sizes of `data.buckets`; a picture that fits none has a fault.
    """

    def look(index: int) -> tuple[Record, list[str], Size | None]:
        record = records[index]
        loaded, found = read_record(record, max_subjects, tokenizer, fit)
        return record, found, fit.choose(loaded.image.size) if fit and loaded else None

    subjects, references, bad, chosen = 0, 0, {}, []
    with ThreadPoolExecutor(workers) as pool:
        for record, found, size in pool.map(look, range(len(records))):
            subjects += len(record.subjects)
            references += count_references(record.subjects)
            chosen.append(size)
            if found:
                bad[record.name] = found
            on_record()
    buckets = Buckets(group(chosen), fit.max_crop, bad) if fit else None
    return Report(len(records), subjects, references, bad, buckets)
