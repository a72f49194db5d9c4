"""The commands `moa-train` and `moa-sample`; train.py and sample.py at the root are the same two.

They read the command line, and import what takes long only when it is needed: a mistake, `--help`
and the completion of a word in a shell are answered at once.
"""
