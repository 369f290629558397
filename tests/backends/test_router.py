"""Another router as a backend: it speaks every dialect."""

import pytest

from ollama_proxy.backends.backend import BackendFailed
from ollama_proxy.backends.router import RouterBackend
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.fleet import BackendType
from tests.backends.exchanges import direct, errand, paths, reaching, recording
from tests.fakes.ollama import Script, open_fake
from tests.fleet import spec


@pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
async def test_no_call_is_translated(call: Call) -> None:
    """Whatever the dialect, a call goes to the same path, and its answer comes back untouched."""
    made = errand(call, stream=not call.embeds)
    async with open_fake(Script()) as fake, reaching(fake.url) as server, recording() as sink:
        backend = RouterBackend(spec(type=BackendType.ROUTER), server)
        expected = await direct(fake, made)
        served = await backend.exchange(made, sink)

    assert (expected, 200, [call.path] * 2) == (sink.body, served.status, paths(fake))


async def test_it_is_probed_for_its_models() -> None:
    """What an old one tells of itself is its list of models; no list is a failure."""
    async with open_fake(Script(models=("a:1", "b:latest"))) as fake, reaching(fake.url) as server:
        backend = RouterBackend(spec(type=BackendType.ROUTER), server)

        assert frozenset({"a:1", "b:latest"}) == (await backend.probe()).models

    async with open_fake(Script(unserved=("/api/tags",))) as fake, reaching(fake.url) as server:
        with pytest.raises(BackendFailed, match="/api/tags answered 404"):
            await RouterBackend(spec(type=BackendType.ROUTER), server).probe()
