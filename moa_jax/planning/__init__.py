"""A plan before the bill: what the real program would take on chips that are not here.

The TPU compiler runs on any machine and knows every topology; what it says of memory, work and
traffic is exact for that compiler. It says nothing of speed: the times here are bounds.
"""
