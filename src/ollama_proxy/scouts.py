"""Looks for other routers as the configuration says, and has those that are found be backends.

    workers   sources: a task each for DNS, Kubernetes, Avahi; one that decides who is in

Sources come and go with the configuration; what they last said is believed for a while, so that
a file that is read again loses no node.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import attrs
import trio

from ollama_proxy.config import BackendConfig, Config, is_loopback
from ollama_proxy.config import Fleet as FleetConfig
from ollama_proxy.discovery.advertising import Announcement, advertise
from ollama_proxy.discovery.avahi import watch_avahi
from ollama_proxy.discovery.dns import DnsSettings, watch_dns
from ollama_proxy.discovery.report import Report
from ollama_proxy.metrics.sources import SourceState
from ollama_proxy.pinned import Pin
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.roster import Configured, FoundNode, Member, Roster, Source
from ollama_proxy.policy.whereabouts import read_service, split_host_port, tidy
from ollama_proxy.stations import Fleet, Wanted

FIRST_LOOK_S = 1.0
LOOK_EVERY_S = 5.0

log = logging.getLogger("ollama_proxy.discovery")


@attrs.frozen(kw_only=True)
class Surroundings:
    """What sources are asked with, and what they cannot know themselves.

    Attributes:
        own_id: this router's.
        own_machine: what tells it from another of that id.
        system_bus: where Avahi is.
        environ: tells a pod where the API is.
        pins: tells how those that are paired are spoken with, by their ids.
    """

    own_id: str
    own_machine: str
    system_bus: str
    environ: Mapping[str, str]
    pins: Callable[[], Mapping[str, Pin]] = dict


class Scouts:
    """Those who look for nodes, and the list that they write."""

    def __init__(self, config: Config, fleet: Fleet, surroundings: Surroundings) -> None:
        """Begin with nobody found."""
        self._config = config
        self._fleet = fleet
        self._around = surroundings
        self.roster = Roster(
            own_id=surroundings.own_id,
            own_machine=surroundings.own_machine,
            lost_s=config.fleet.lost_s,
            dwell_s=config.fleet.refresh_s,
        )
        self._reports: dict[Source, Report] = {}
        self._stirred = trio.Event()
        self._changed = trio.Event()
        self._served: dict[str, int] = {}
        self._members: tuple[Member, ...] = ()
        # Of those that are configured: who they said they are, and when.
        self._described: dict[str, tuple[str, float]] = {}
        self._advertising = trio.CancelScope()

    # -- what is asked of them ---------------------------------------------------------------------

    def follow(self, config: Config) -> None:
        """The configuration has been read again."""
        is_same = config.fleet == self._config.fleet
        self._config = config
        if not is_same:
            self._changed.set()
        self._stirred.set()

    def states(self) -> dict[str, SourceState]:
        """How each source is, for the metrics."""
        return {
            source.value: SourceState(nodes=self.roster.count(source), is_up=report.is_up is True)
            for source, report in self._reports.items()
        }

    def stir(self, _: object = None) -> None:
        """Something has changed among the backends: look at once who is in."""
        self._stirred.set()

    def withdraw(self) -> None:
        """Have the local network told of this router no more."""
        self._advertising.cancel()

    # -- their life --------------------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Look until cancelled. Reports itself started once the first who were found are backends.

        Error handling: sources that fail are told of and tried again; nothing goes up.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._keep_sources, name="sources of nodes")
            await nursery.start(self._keep_looking, name="fleet")
            task_status.started()
            await trio.sleep_forever()

    async def _keep_sources(self, *, task_status: trio.TaskStatus[None]) -> NoReturn:
        """Ask sources, and others after the configuration has changed."""
        while True:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                self._start_sources(nursery)
                with trio.move_on_after(FIRST_LOOK_S):
                    for report in self._reports.values():
                        await report.told.wait()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def advertise(self, port: int) -> None:
        """Tell the local network of this router, until withdrawn.

        Args:
            port: of its HTTP door; where that is on loopback, others are told of the one for paired
                routers alone.
        """
        server, pairing = self._config.server, self._config.pairing
        has_door = pairing.door and not is_loopback(pairing.host)
        is_shut = is_loopback(server.host)
        announcement = Announcement(
            node_id=self._around.own_id,
            port=pairing.port if is_shut else port,
            tls=is_shut or server.tls.files is not None,
            paired_port=pairing.port if has_door else 0,
        )
        with self._advertising:
            await advertise(self._around.system_bus, announcement)

    def _start_sources(self, nursery: trio.Nursery) -> None:
        wanted, now = self._config.fleet, trio.current_time()
        self.roster.lost_s, self.roster.dwell_s = wanted.lost_s, wanted.refresh_s
        self.roster.trusts_all = wanted.trust_found
        before, self._reports = self._reports, {}
        if wanted.nodes:
            report = self._report(Source.NODES, "the configuration")
            report.nodes(FoundNode(url=tidy(url)) for url in wanted.nodes)
        if wanted.dns:
            host, port = split_host_port(wanted.dns)
            settings = DnsSettings(
                name=host, port=port, scheme=wanted.scheme, refresh_s=wanted.refresh_s
            )
            report = self._report(Source.DNS, f"DNS ({wanted.dns})")
            nursery.start_soon(watch_dns, settings, report, name="nodes by DNS")
        if wanted.kubernetes:
            self._start_kubernetes(nursery, wanted)
        if wanted.avahi:
            report = self._report(Source.AVAHI, "Avahi")
            nursery.start_soon(watch_avahi, self._around.system_bus, report, name="nodes by Avahi")
        for source in before:
            if source not in self._reports:
                self.roster.forget(source)
            elif self._reports[source].is_up is None:
                self.roster.lost(source, now)  # until it is heard again
        self._stirred.set()

    def _start_kubernetes(self, nursery: trio.Nursery, wanted: FleetConfig) -> None:
        # Its client costs a tenth of a second and some MiB, which nobody else needs.
        from ollama_proxy.discovery.kubernetes import (  # noqa: PLC0415
            KubernetesSettings,
            watch_kubernetes,
        )

        service = read_service(wanted.kubernetes)
        assert service is not None, "the configuration is checked"  # noqa: S101 - as it says
        report = self._report(Source.KUBERNETES, f"Kubernetes ({wanted.kubernetes})")
        settings = KubernetesSettings(
            service=service,
            api=wanted.kubernetes_api or _api_of_pods(self._around.environ),
            files=wanted.kubernetes_files,
            scheme=wanted.scheme,
        )
        nursery.start_soon(watch_kubernetes, settings, report, name="nodes by Kubernetes")

    def _report(self, source: Source, where: str) -> Report:
        report = self._reports[source] = Report(source, where, self._saw, self._lost)
        return report

    def _saw(self, source: Source, nodes: Sequence[FoundNode]) -> None:
        self.roster.saw(source, nodes, trio.current_time())
        self._stirred.set()

    def _lost(self, source: Source) -> None:
        self.roster.lost(source, trio.current_time())
        self._stirred.set()

    # -- who is in ---------------------------------------------------------------------------------

    async def _keep_looking(self, *, task_status: trio.TaskStatus[None]) -> NoReturn:
        while True:
            self._stirred = trio.Event()
            await self._look()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            if self._reports:
                with trio.move_on_after(LOOK_EVERY_S):
                    await self._stirred.wait()
            else:
                await self._stirred.wait()

    async def _look(self) -> None:
        now = trio.current_time()
        pins = self._around.pins()
        self.roster.paired = pins.keys()
        self._listen(now)
        review = self.roster.review(now, self._configured(now))
        for remark in review.remarks:
            log.warning("%s", remark)
        for member in review.left:
            log.info("node %s has left the fleet: %s", member.backend_id, member.url)
            self._served.pop(member.backend_id, None)
        for member in review.joined:
            log.info(
                "node %s has joined the fleet: %s, told of by %s",
                member.backend_id,
                member.url,
                self._reports[member.source].where,
            )
        self._members = review.members
        await self._fleet.find(
            Wanted(self._backend(member), pins[member.node_id] if member.is_proved else None)
            for member in review.members
        )
        for member in review.members:
            if (station := self._fleet.dispatcher.stations.get(member.backend_id)) is not None:
                station.is_doubted(member.doubt or None)

    def _listen(self, now: float) -> None:
        """Who has answered a probe, or served, is alive, whatever is told of it."""
        for member in self._members:
            station = self._fleet.dispatcher.stations.get(member.backend_id)
            if station is None:
                continue
            served = station.requests_total - station.errors_total
            if station.healthy or served > self._served.get(member.backend_id, 0):
                machine = (station.node and station.node.machine) or ""
                self.roster.heard(member.url, now, station.node_id, machine)
            self._served[member.backend_id] = served

    def _configured(self, now: float) -> Configured:
        backends = self._fleet.configured
        stations = self._fleet.dispatcher.stations
        for each in backends:
            station = stations.get(each.id)
            if station is not None and station.node_id:
                self._described[each.id] = (station.node_id, now)
        # Who is silent for a moment is still who it was; for longer, it may be elsewhere now.
        self._described = {
            backend_id: (node_id, heard)
            for backend_id, (node_id, heard) in self._described.items()
            if now - heard < self.roster.lost_s and any(each.id == backend_id for each in backends)
        }
        return Configured(
            urls={tidy(each.endpoint) for each in backends if _is_http(each.endpoint)},
            node_ids={node_id for node_id, _ in self._described.values()},
            backend_ids={each.id for each in backends},
        )

    def _backend(self, member: Member) -> BackendConfig:
        wanted = self._config.fleet
        return BackendConfig(
            id=member.backend_id,
            type=BackendType.ROUTER,
            name=member.name,
            hardware=Hardware.CLOUD,
            endpoint=member.url,
            slots=wanted.slots,
            # In the local network anybody may say that he is a node.
            api_key_env="" if member.source is Source.AVAHI else wanted.api_key_env,
        )


def _is_http(endpoint: str) -> bool:
    return endpoint.startswith(("http://", "https://"))


def _api_of_pods(environ: Mapping[str, str]) -> str:
    """Where a pod finds the API; outside of a cluster a name that is not known."""
    host = environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    host = f"[{host}]" if ":" in host else host
    return f"https://{host}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}"
