"""Imported by the page with --plugin: a drawing of LONG steps lasts longer than a busy browser."""

import time

from moa_jax.page import studio

LONG = 100  # steps; the most that the page takes
PAUSE = 0.4  # seconds at each of them
_Reporter = studio._Reporter


class _Slow(_Reporter):
    def __call__(self, step, latents):
        if self._total == LONG:
            time.sleep(PAUSE)
        super().__call__(step, latents)


studio._Reporter = _Slow
