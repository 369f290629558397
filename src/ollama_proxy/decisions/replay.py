"""Decides a recorded choice again: as it was, or under another mode or configuration.

Each choice is taken by itself, among backends as they stood then: had an earlier one gone elsewhere, the
lines would have been others. Who wants the whole story uses `ollama-proxy simulate`, which needs a
model of every backend where this needs none.
"""

import attrs

from ollama_proxy.config import Config
from ollama_proxy.decisions.reading import Recorded
from ollama_proxy.policy.fleet import BackendView
from ollama_proxy.policy.modes import STANCES, Mode
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision, Reason, Steering


@attrs.frozen(kw_only=True)
class Change:
    """What is to be other than it was.

    Attributes:
        mode: in force; None or auto: the one that was.
        config: None: what its owner had written down then.
    """

    mode: Mode | None = None
    config: Config | None = None

    @property
    def is_any(self) -> bool:
        """Whether anything is to be other."""
        return self.config is not None or self.mode not in {None, Mode.AUTO}

    def apply(self, question: Question) -> Question:
        """The same question under other circumstances. Backends that were not there stay away."""
        settings, fleet = question.settings, list(question.fleet)
        steering = settings.steering
        if self.config is not None:
            settings = self.config.route_settings
            fleet = _described(fleet, self.config)
        mode = self.mode
        if mode in {None, Mode.AUTO} and self.config is not None:
            mode = self.config.efficiency.mode
        if mode is not None and mode is not Mode.AUTO:
            steering = _steered(steering, mode)
        return attrs.evolve(
            question, settings=attrs.evolve(settings, steering=steering), fleet=fleet
        )


def _steered(steering: Steering, mode: Mode) -> Steering:
    """Another mode; battery, heat and noise are as they were.

    How loud the fans were is known only where the mode that was in force asked for it: where it did
    not, they count as quiet.
    """
    return attrs.evolve(steering, stance=STANCES[mode], reason=Reason(f"mode-{mode.value}"))


def _described(fleet: list[BackendView], config: Config) -> list[BackendView]:
    """The backends that the configuration has, as it describes them, in the state they were in."""
    views = {view.spec.id: view for view in fleet}
    lines = config.scheduler
    preempts: Started | None = lines.preempt_started if lines.preempt else None
    return [
        attrs.evolve(
            views[backend.id],
            spec=backend.to_spec(),
            reserved=min(lines.reserve_critical_slots, backend.slots - 1),
            preempts=preempts,
        )
        for backend in config.backends
        if backend.id in views
    ]


class Undecidable(ValueError):  # noqa: N818 - read as a sentence where it is caught
    """A recorded choice has numbers that no backend ever had: its line is damaged."""


def decide_again(recorded: Recorded, change: Change) -> Decision | Refusal:
    """Decide it anew.

    Raises:
        Undecidable: there is no sense in its numbers.
    """
    try:
        question = change.apply(recorded.question) if change.is_any else recorded.as_it_was()
        return question.decide()
    except (ArithmeticError, ValueError) as error:
        raise Undecidable(str(error)) from error
