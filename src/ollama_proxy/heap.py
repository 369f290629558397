"""Memory that large bodies took goes back to the system when nobody needs it any more.

glibc maps what is large apart and unmaps it when it is freed, and then takes for large only what is larger
still, up to 32 MiB: bodies come from the heap from then on. Of that only the end is given back, once there are
64 MiB of it, and none while something small stands behind. A few bodies of 18 MiB left 47 MiB taken. To say
once what is large keeps it so.
"""

import ctypes

LARGE_BYTES = 1 << 20
TRIM_BYTES = 8 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def map_large_apart() -> bool:
    """Have the C library do so from now on; False where it is not glibc, and goes by rules of its own."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES))
