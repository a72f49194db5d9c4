"""Files to numpy batches: captioned pictures with a mask for each subject.

`records` finds what a folder holds, `examples` reads and checks one record and makes a training
example of it (with `images`, `captions`, `augment`), `loader` streams shuffled batches, and
`python -m moa_jax.data check DIR` lists every fault of a data set. Follows FastComposer's released
data code. Knows nothing of jax, of the networks or of the device.
"""
