"""The small scene of tests/method, for what is merged into its networks."""

from tests.method.conftest import said, scene

__all__ = ["said", "scene"]
