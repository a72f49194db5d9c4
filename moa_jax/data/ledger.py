"""The bad records of a data set: each is logged once, and too many of them stop what reads it."""

import logging
import threading

from moa_jax.errors import InputError

logger = logging.getLogger("moa_jax.data")


class Ledger:
    """The bad records that a run has met, each logged once.

    Attributes:
        faults: what is wrong with each bad record, by its name.
    """

    def __init__(self, path: str, records: int, max_bad_fraction: float, options: str = ""):
        """Prepare to count.

        Args:
            options: of the command that lists every fault, where it needs any.
        """
        self.faults: dict[str, list[str]] = {}
        self._path, self._records, self._max = path, records, max_bad_fraction
        self._command = f"python -m moa_jax.data check {path}{options}"
        self._lock = threading.Lock()

    def add(self, name: str, faults: list[str]) -> None:
        """Note a bad record.

        Raises:
            InputError: a larger share of the records is bad than allowed.
        """
        with self._lock:  # several threads read records
            if name not in self.faults:
                logger.warning("bad record %s is skipped: %s", name, "; ".join(faults))
            self.faults[name] = faults
            bad = len(self.faults)
        if bad > self._max * self._records:
            raise InputError(
                f"{bad} of the {self._records} records of {self._path} are bad, more than "
                f"data.max_bad_fraction={self._max} allows; the last is {name}: "
                f"{'; '.join(faults)}. To list every fault: {self._command}"
            )
