"""Identity and prompt on people's faces: `python -m moa_jax.evaluation faces`.

It draws each person after each prompt, finds and compares the faces, and reports; what is drawn or
measured already is not done again.
"""
