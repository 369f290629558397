"""What real parts a test needs: named when missing, and in CI not to be missing."""

import os

import pytest


def require(condition: bool, what: str) -> None:
    """Go on only if `condition` holds.

    Args:
        condition: whether the part is there.
        what: what is missing otherwise, as in "xllamacpp is not installed".
    """
    if condition:
        return
    reason = f"NOT RUN: {what}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
