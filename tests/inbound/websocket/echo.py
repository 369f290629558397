"""What is spoken to public suites of WebSocket clients: each message comes back."""

import attrs

from ollama_proxy.inbound.websocket.socket import Socket
from ollama_proxy.policy.refusal import Refusal


@attrs.define(eq=False)
class Echo:
    """A dialogue of which nothing depends on what is said."""

    socket: Socket

    async def open(self) -> None:
        """See `Dialogue`."""

    async def hear(self, message: str) -> None:
        """See `Dialogue`."""
        await self.socket.send(message.encode())

    def refuse(self, message: str, refusal: Refusal) -> None:
        """Nothing is."""
        raise NotImplementedError

    def leave(self) -> None:
        """See `Dialogue`."""

    @property
    def is_idle(self) -> bool:
        """See `Dialogue`."""
        return True
