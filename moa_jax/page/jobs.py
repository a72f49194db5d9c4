"""One job at a time, in the order in which they came; each knows its place and can be stopped.

Nothing here knows what a job does. One thread works, and any number of threads may watch.
"""

import logging
from collections.abc import Callable, Iterator
from threading import Condition, Thread
from typing import Any, NamedTuple

from moa_jax.errors import InputError

MOST = 16  # jobs in the line; whoever comes then is sent away


class Stopped(Exception):
    """Somebody stopped the job."""


class Update(NamedTuple):
    """How far a job is.

    Attributes:
        place: how many jobs are before it; 0 means that it is being worked on.
        done: steps that are done.
        total: steps in all; 0 before the first is done.
        preview: whatever the work showed last.
    """

    place: int
    done: int = 0
    total: int = 0
    preview: Any = None


class Job:
    """A piece of work in the line."""

    def __init__(self, work: Callable[["Job"], Any], desk: "Desk") -> None:
        """Prepare a job; `Desk.add` puts it into the line.

        Args:
            work: what to do; it calls `report` now and then.
        """
        self._work = work
        self._desk = desk
        self._changed = desk.changed
        self._begun = False
        self._stop = False
        self._ended = False
        self._update = Update(0)
        self._result: Any = None
        self._error: BaseException | None = None

    def report(self, done: int, total: int, preview: Any = None) -> None:
        """Say how far the work is; for the work itself.

        Args:
            preview: None means that the last one stays.

        Raises:
            Stopped: somebody has asked for that.
        """
        with self._changed:
            if self._stop:
                raise Stopped
            shown = self._update.preview if preview is None else preview
            self._update = Update(0, done, total, shown)
            self._changed.notify_all()

    def stop(self) -> None:
        """Ask the job to stop: at once if it waits, otherwise at its next report."""
        with self._changed:
            self._stop = True
            if not self._begun and not self._ended:
                self._error, self._ended = Stopped(), True
                self._desk.leave(self)

    def updates(self) -> Iterator[Update]:
        """Watch the job until it ends; who stops watching stops the job."""
        seen = None
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda seen=seen: self._ended or self._update is not seen
                    )
                    seen, ended = self._update, self._ended
                if ended:
                    return
                yield seen
        finally:
            self.stop()

    def result(self) -> Any:
        """Give what the work returned; for after `updates`.

        Raises:
            Stopped: it was stopped.
            InputError: what the work could not serve, or that it failed by a fault of the program,
                which the log then explains.
        """
        if isinstance(self._error, Stopped | InputError):
            raise self._error
        if self._error is not None:
            kind = type(self._error).__name__
            raise InputError(f"this failed ({kind}); the log of the server says why")
        return self._result

    def run(self) -> None:
        """Do the work; for the desk."""
        try:
            self._result = self._work(self)
        except (Stopped, InputError) as error:
            self._error = error
        except BaseException as error:
            logging.getLogger(__name__).exception("a drawing failed")
            self._error = error
        with self._changed:
            self._ended = True
            self._desk.leave(self)

    def begin(self) -> None:
        """Note that the job is worked on from now; for the desk, which holds the lock."""
        self._begun = True

    def move_up(self, place: int) -> None:
        """Tell the job its place; for the desk, which holds the lock."""
        if self._update.place != place:
            self._update = self._update._replace(place=place)


class Desk:
    """The line, and the thread that works on it.

    Attributes:
        changed: guards all that belongs to the jobs, and wakes up those who watch them.
    """

    def __init__(self, most: int = MOST) -> None:
        """Open the desk.

        Args:
            most: how many jobs may be in the line, with the one that is worked on.
        """
        self._most = most
        self.changed = Condition()
        self._line: list[Job] = []
        self._thread: Thread | None = None

    def add(self, work: Callable[[Job], Any]) -> Job:
        """Put a job at the end of the line.

        Raises:
            InputError: the line is too long.
        """
        with self.changed:
            if len(self._line) >= self._most:
                raise InputError(f"{len(self._line)} drawings wait already: try again in a minute")
            job = Job(work, self)
            job.move_up(len(self._line))
            self._line.append(job)
            if self._thread is None:
                self._thread = Thread(target=self._serve, daemon=True, name="drawing")
                self._thread.start()
            self.changed.notify_all()
        return job

    def leave(self, job: Job) -> None:
        """Take a job out of the line; for the job, which holds the lock."""
        self._line.remove(job)
        for place, waiting in enumerate(self._line):
            waiting.move_up(place)
        self.changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._line)
                job = self._line[0]
                job.begin()
            job.run()
