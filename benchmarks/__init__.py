"""Measure moa_jax against its limits and its peers; docs/performance.md says how.

They run from the repository's root, `python -m benchmarks.NAME`, and are no part of the package.
"""

import moa_jax  # noqa: F401 (before jax: it settles what XLA prints)
