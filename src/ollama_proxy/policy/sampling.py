"""Which of the answers that another proxy carries are read here as they pass.

Reading costs each token a trip through the router, which is what such a proxy is there to spare. What it
teaches, how fast a node writes and how long its answers are, stays true for a while: so all are read
until it is known, and few from then on.
"""

from ollama_proxy.policy.estimate import Learned

ONE_IN = 32
STALE_S = 600.0


def is_read(speed: Learned | None, nth: int, now: float) -> bool:
    """Whether an answer is read as it passes.

    Args:
        speed: how fast its node writes with this model; None: that is not known.
        nth: how many answers this node has begun, this one included.
        now: seconds.
    """
    return speed is None or now - speed.at > STALE_S or nth % ONE_IN == 0
