"""The exceptions that commands print as one message; see `moa_jax.cli`.

`InputError` is for what the person at the keyboard can mend: library code raises it with a message
that names the argument (or file, or key), the value and the remedy. Everything else that is raised
is a fault of the program and keeps its traceback.
"""


class InputError(ValueError):
    """A wrong argument, file, configuration key or data set: say what, which, and what to do."""


class LostHost(Exception):
    """Another host of this run is gone: all hosts have to be started again."""


class NonFiniteLoss(ArithmeticError):
    """Training diverged: the message names the step, the term and the last good checkpoint."""


class Preempted(Exception):
    """Training was told to stop, and saved the step that the message names."""
