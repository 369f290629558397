"""Ours: one router over all backends, that knows all of them at once, in the weather there is."""

from collections.abc import Sequence

from ollama_proxy.simulate.arrivals import Traffic
from ollama_proxy.simulate.callers import Callers
from ollama_proxy.simulate.conditions import Change
from ollama_proxy.simulate.floor import Floor
from ollama_proxy.simulate.hours import Hours
from ollama_proxy.simulate.model import Machine
from ollama_proxy.simulate.report import Tally
from ollama_proxy.simulate.scenario import Scenario
from ollama_proxy.simulate.weather import BEAT_S, Weather


class World:
    """A run of ours."""

    def __init__(
        self, scenario: Scenario, traffic: Traffic, fleet: Sequence[Machine], tally: Tally
    ) -> None:
        """Open the router; nothing has happened."""
        self._hours = Hours()
        self._tally = tally
        self._floor = Floor(scenario, self._hours, fleet)
        self.dispatcher = self._floor.dispatcher
        self.weather: Weather | None = None
        if scenario.has_climate:
            by_id = {machine.spec.id: machine for machine in fleet}
            self.weather = Weather(scenario, self.dispatcher, by_id, lambda: self._hours.now)
            self._floor.starts = self.weather.starts
        for crew in self._floor.crews:
            for absence in crew.machine.given.absent:
                self._hours.at(absence.at_s, self._floor.lose, crew)
                self._hours.at(absence.until_s, self._floor.regain, crew)
        Callers(traffic, tally, self._hours, lambda: self.dispatcher)

    def run(self) -> None:
        """Let it all happen."""
        if self.weather is not None:
            self._hours.at(BEAT_S, self._beat, self.weather)
            self._await_change(self.weather)
        self._hours.run()
        self._tally.hedge_s = self._floor.lost_s

    def _beat(self, weather: Weather) -> None:
        weather.beat()
        if not self._hours.is_over or self.dispatcher.jobs:
            self._hours.at(self._hours.now + BEAT_S, self._beat, weather)

    def _await_change(self, weather: Weather) -> None:
        if weather.changes:
            change = weather.changes.popleft()
            self._hours.at(change.at_s, self._turn, change)

    def _turn(self, change: Change) -> None:
        assert self.weather is not None  # noqa: S101 - nobody else tells of a change
        self._await_change(self.weather)
        self.weather.turn(change)
