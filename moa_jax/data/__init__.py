"""Turn files into numpy batches: captioned pictures with a mask for each subject.

`records` finds what a folder holds, `examples` reads and checks one record and makes a training
example of it (with `files`, `images`, `captions`, `augment`), `loader` streams shuffled batches.
`python -m moa_jax.data` lists every fault of a data set (`check`), writes it as a few large files
(`pack`, `packed`) and measures how fast a host reads it (`bench`); its `build`, which makes a data
set of photographs, is `moa_jax.dataset`. The package follows FastComposer's released data code.
Nothing here depends on jax, on the networks or on the device.
"""
