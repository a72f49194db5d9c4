"""The one exception for what the person at the keyboard can mend.

Library code raises it with a message that names the argument (or file, or key), the value and the
remedy; `train.py` and `sample.py` print that message and exit with code 2. Everything else that is
raised is a fault of the program and keeps its traceback.
"""


class InputError(ValueError):
    """A wrong argument, file, configuration key or data set: say what, which, and what to do."""
