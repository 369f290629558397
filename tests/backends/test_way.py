"""How somebody else makes a call on a backend."""

import json
from typing import Any

import pytest

from ollama_proxy.backends.backend import Backend, CallUnserved, Errand, Way
from ollama_proxy.backends.embedded import EmbeddedBackend
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.ollama import OllamaBackend
from ollama_proxy.backends.openai import OpenAIBackend
from ollama_proxy.backends.pump import Pump
from ollama_proxy.backends.router import RouterBackend
from ollama_proxy.backends.server import Server, ServerSettings
from ollama_proxy.policy.ask import Call
from tests.fleet import spec


def errand(call: Call = Call.OPENAI_CHAT, model: str = "m") -> Errand:
    """A call."""
    body = json.dumps({"model": model, "messages": []}).encode()
    return Errand(call=call, model=model, body=body, stream=True)


def server(url: str, key: str = "") -> Server:
    """One that is never asked."""
    return Server(Endpoint.parse(url), ServerSettings(api_key=key), Pump(stall_timeout_s=1.0))


def test_as_it_is() -> None:
    """Where it listens, and nothing else."""
    backend = OllamaBackend(spec(), server("http://192.0.2.1:11434"))

    assert Way(host="192.0.2.1", port=11434, path="/v1/chat/completions", model="m") == backend.way(
        errand()
    )


def test_its_path_its_key_and_its_name_for_the_model() -> None:
    """Whatever a call of our own would have."""
    described = spec(aliases={"m": "other/m"})
    backend = OpenAIBackend(described, server("http://node.lan/v3", key="k"))
    way = backend.way(errand())

    assert ("node.lan", 80, "/v3/chat/completions", "other/m") == (
        way.host,
        way.port,
        way.path,
        way.model,
    )
    assert ((b"authorization", b"Bearer k"),) == way.headers
    assert way.body is not None
    assert "other/m" == json.loads(way.body())["model"]
    assert "Bearer" not in repr(way)


@pytest.mark.parametrize("url", ["https://192.0.2.1", "unix:/run/it"])
def test_nobody_else_can_ask_there(url: str) -> None:
    """An address and a port would not be enough."""
    with pytest.raises(CallUnserved):
        OpenAIBackend(spec(), server(url)).way(errand())


def test_nothing_is_translated() -> None:
    """Ollama's calls are for those that know them."""
    url = "http://192.0.2.1:1"
    call = errand(Call.OLLAMA_CHAT)
    willing: list[Backend] = [
        OllamaBackend(spec(), server(url)),
        RouterBackend(spec(), server(url)),
    ]

    assert ["/api/chat", "/api/chat"] == [backend.way(call).path for backend in willing]
    with pytest.raises(CallUnserved):
        OpenAIBackend(spec(), server(url)).way(call)


def test_an_embedded_one_listens_for_us_alone() -> None:
    """Its process may be another at any time."""

    def never(url: str) -> Any:
        raise AssertionError(url)

    with pytest.raises(CallUnserved):
        EmbeddedBackend(spec(), never).way(errand())
