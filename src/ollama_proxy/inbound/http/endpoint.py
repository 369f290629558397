"""One endpoint of the app as a value: where it is, who answers it, how it is described."""

from collections.abc import Awaitable, Callable

import attrs
from quart import Response

from ollama_proxy.dashboard import Assets
from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.live.audience import Audience
from ollama_proxy.inbound.trust import Gate

_PLAIN = str.maketrans("{}", "<>")
JSON = "application/json"
TEXT = "text/plain"


@attrs.frozen
class Dashboard:
    """The page that shows the router: its files, and who watches."""

    assets: Assets
    audience: Audience


@attrs.frozen(kw_only=True)
class Services:
    """What every view is given.

    Attributes:
        dispatcher: takes jobs, and knows the stations.
        climate: the machine's state, and the mode.
        gate: says who may ask.
        metrics: the page that is scraped; told whether as OpenMetrics.
        version: of the router.
        node_id: what it is called among others.
        machine: what tells it from another that is called so.
        max_body_bytes: the largest body that is read whole.
        body_timeout_s: how long a body may take to come.
        bounds: of all bodies together.
        dashboard: the page; None where its owner does not want it.
    """

    dispatcher: Dispatcher
    climate: Climate
    gate: Gate
    metrics: Callable[[bool], bytes]
    version: str
    max_body_bytes: int
    body_timeout_s: float = 60.0
    node_id: str = ""
    machine: str = ""
    bounds: Bounds = attrs.field(factory=Bounds)
    dashboard: Dashboard | None = None

    @property
    def enabled_stations(self) -> list[Station]:
        """The stations that their owner has not switched off, in the order of the configuration."""
        return [s for s in self.dispatcher.stations.values() if s.spec.enabled]

    @property
    def healthy_stations(self) -> list[Station]:
        """Those of the enabled that answered their last probe."""
        return [s for s in self.enabled_stations if s.healthy]


@attrs.frozen(kw_only=True)
class Endpoint:
    """One method of one path.

    Attributes:
        method: HTTP method; GET answers HEAD as well.
        path: with parameters in braces, as OpenAPI writes them.
        view: called with `Services`, and the path's parameters by name.
        name: unique; OpenAPI's operationId.
        summary: what it is for, in one line.
        tag: which part of the app it belongs to.
        takes: the body's media type; None where no body is read.
        answers: media types of a successful answer.
        headers: names of the request headers it heeds.
    """

    method: str
    path: str
    view: Callable[..., Awaitable[Response]]
    name: str
    summary: str
    tag: str
    takes: str | None = None
    answers: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The path as Quart's router writes it; a model's name may hold slashes."""
        return self.path.replace("{model}", "<path:model>").translate(_PLAIN)
