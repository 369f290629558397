"""All that a choice of backend goes by, in one value: what is noted down, and can be decided again."""

from collections.abc import Sequence

import attrs

from ollama_proxy.policy.affinity import Warm
from ollama_proxy.policy.ask import Ask, Wishes
from ollama_proxy.policy.fleet import BackendView
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision, RouteSettings, choose


@attrs.frozen(kw_only=True)
class Question:
    """What `route.choose` is asked. Its views are live: who keeps them, keeps no moment.

    Attributes:
        again: it was asked for the same request before, which has a place or had one.
    """

    ask: Ask
    wishes: Wishes
    fleet: Sequence[BackendView]
    settings: RouteSettings
    now: float
    client: str = ""
    warm: Warm | None = None
    tried: Sequence[str] = ()
    again: bool = False

    def decide(self) -> Decision | Refusal:
        """Decide it."""
        return choose(
            self.ask,
            self.wishes,
            self.fleet,
            self.settings,
            now=self.now,
            client=self.client,
            warm=self.warm,
            tried=self.tried,
        )
