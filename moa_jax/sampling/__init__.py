"""All that turns a request into pictures: what to draw, from which noise, by which programs.

`Pipeline` loads the networks and draws; `sample.py` is its command line.
"""
