"""What `policy.courtesy` goes by, gathered: who is at work, and since when the machine is to sleep."""

from collections.abc import Callable

import trio

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import Stage
from ollama_proxy.policy.courtesy import CourtesySettings, Wants, decide


class Courtesy:
    """What is wanted of the desktop. One for the whole router."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        climate: Climate,
        settings: CourtesySettings,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Begin with a machine that is awake."""
        self._dispatcher = dispatcher
        self._climate = climate
        self._settings = settings
        self._now = clock
        self._sleeping_since: float | None = None
        climate.watched_by(self._looked)

    def wants(self) -> Wants:
        """What is wanted now."""
        since = self._sleeping_since
        return decide(
            (
                (job.priority, job.ask.stream)
                for job in self._dispatcher.jobs
                if job.stage is Stage.RUNNING
            ),
            self._settings,
            sleeping_s=None if since is None else self._now() - since,
        )

    def _looked(self) -> None:
        if not self._climate.conditions.sleeping:
            self._sleeping_since = None
        elif self._sleeping_since is None:
            self._sleeping_since = self._now()
