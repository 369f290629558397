"""grpc.health.v1.Health: whether requests are taken on, as /readyz has it."""

from collections.abc import Callable, Collection

from ollama_proxy.inbound.grpc.pb import health_v1_pb2 as pb
from ollama_proxy.inbound.grpc.rpc import Rpc
from ollama_proxy.inbound.grpc.services.changes import Changes
from ollama_proxy.inbound.grpc.status import CallFailed, Status

_STATES = pb.HealthCheckResponse
# What a gateway asks its endpoint picker by: whether it answers at all, and whether it can pick.
LIVENESS, READINESS = "liveness", "readiness"
# Without a backend that is well it still picks: it tells the proxy's callers so. Were it taken for dead,
# the proxy would choose by itself, among backends that only seem to be there. Not before it knew of one:
# after a start the next picker knows better.
PICKER = "envoy.service.ext_proc.v3.ExternalProcessor"


class Health:
    """Serves its methods; every service is as well as the router, but for the picker's."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        is_draining: Callable[[], bool],
        changes: Changes,
        services: Collection[str],
    ) -> None:
        """Make ready; `services`: those that may be asked about, the empty name is the router."""
        self._is_ready = is_ready
        self._is_draining = is_draining
        self._was_ready = False
        self._changes = changes
        self._services = services

    def _state(self, service: str) -> pb.HealthCheckResponse.ServingStatus:
        if service == LIVENESS:
            return _STATES.SERVING
        if service not in {"", READINESS, *self._services}:
            return _STATES.SERVICE_UNKNOWN
        is_up = self._is_ready()
        self._was_ready |= is_up
        if service == PICKER:
            is_up = self._was_ready and not self._is_draining()
        return _STATES.SERVING if is_up else _STATES.NOT_SERVING

    async def check(self, request: pb.HealthCheckRequest, rpc: Rpc) -> pb.HealthCheckResponse:
        """Tell how a service is now."""
        state = self._state(request.service)
        if state == _STATES.SERVICE_UNKNOWN:
            raise CallFailed(Status.NOT_FOUND, f"There is no service {request.service[:200]!r}.")
        return pb.HealthCheckResponse(status=state)

    async def watch(self, request: pb.HealthCheckRequest, rpc: Rpc) -> None:
        """Tell how a service is, and again when that is otherwise."""
        told = None
        while True:
            change, state = self._changes.next, self._state(request.service)
            if state != told:
                await rpc.send(pb.HealthCheckResponse(status=state))
                told = state
            await self._changes.after(change)
