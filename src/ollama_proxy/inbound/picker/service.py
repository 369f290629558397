"""envoy.service.ext_proc.v3.ExternalProcessor: one conversation for each of Envoy's requests."""

from ollama_proxy.inbound.grpc.rpc import Rpc
from ollama_proxy.inbound.picker.conversation import Conversation
from ollama_proxy.inbound.picker.desk import Desk


class ExternalProcessor:
    """Serves its one method; `methods_of` finds it by its name."""

    def __init__(self, desk: Desk) -> None:
        """Make ready."""
        self._desk = desk

    async def process(self, rpc: Rpc) -> None:
        """Say where one request goes."""
        await Conversation(rpc, self._desk).run()
