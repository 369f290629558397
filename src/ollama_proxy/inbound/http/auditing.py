"""Who changes what over HTTP, for the books: said before it is done, whatever becomes of it."""

from ollama_proxy.engine.ledger import Change
from ollama_proxy.inbound.http.endpoint import Services
from ollama_proxy.inbound.http.exchange import asked, visitor


def tell_change(services: Services, what: str) -> None:
    """Book a change that the present request asks for, in words."""
    client = asked().scope["client"]
    who = visitor()
    services.dispatcher.ledger.change(
        Change(
            door="http",
            address=who.address or (client[0] if client else ""),
            key_name=who.name,
            what=what,
        )
    )
