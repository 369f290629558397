"""How well what was promised at admission came true."""

import attrs

from ollama_proxy.policy.estimate import Learned

WEIGHT = 0.05  # of one request: the last twenty or so are what counts


@attrs.define
class Calibration:
    """Forecasts of one backend against what came. Mutable: fed once a request, by the engine alone.

    Attributes:
        requests: how many forecasts were compared.
        error: mean error, as a share of what came; 0.1 is ten percent off.
        bias: the same with its sign: above 0 where things took longer than promised.
        deadlines_met: requests with a deadline that kept it.
        deadlines_missed: those that did not.
    """

    requests: int = 0
    error: Learned | None = None
    bias: Learned | None = None
    deadlines_met: int = 0
    deadlines_missed: int = 0

    def compare(self, promised_s: float, took_s: float, now: float) -> None:
        """Note one forecast and what came of it."""
        self.requests += 1
        off = (took_s - promised_s) / max(took_s, 1e-3)
        self.error = (self.error or Learned(abs(off), now)).feed(abs(off), now, WEIGHT)
        self.bias = (self.bias or Learned(off, now)).feed(off, now, WEIGHT)

    def settle(self, *, met: bool) -> None:
        """Note how a deadline ended."""
        if met:
            self.deadlines_met += 1
        else:
            self.deadlines_missed += 1
