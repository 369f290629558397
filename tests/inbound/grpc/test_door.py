"""The door: who gets in, who stays outside, and that nobody brings it down."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ollama_proxy.inbound.encryption import Encryption
from ollama_proxy.inbound.grpc.connection import Connection
from ollama_proxy.inbound.grpc.door import GrpcDoor, GrpcSettings
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.inbound.grpc.rpc import Method, Rpc
from ollama_proxy.inbound.trust import Gate
from tests.inbound.grpc.peer import Client
from tests.papers import Papers

PATH = "/it/Echo"
REQUEST = pb.GenerateRequest(prompt="hi").SerializeToString()


async def echo(rpc: Rpc) -> None:
    """Say it again."""
    request = await rpc.receive()
    await rpc.send(pb.GenerateResponse(response=request.prompt))


async def wait(rpc: Rpc) -> None:
    """Say nothing, for ever."""
    await trio.sleep_forever()


@asynccontextmanager
async def open_door(
    encryption: Encryption | None = None, max_connections: int = 100
) -> AsyncIterator[tuple[GrpcDoor, int]]:
    """A door on any free port, closed in the end."""
    methods = [
        Method(path=PATH, takes=pb.GenerateRequest, serve=echo),
        Method(path="/it/Wait", takes=pb.GenerateRequest, serve=wait),
    ]
    settings = GrpcSettings(max_connections=max_connections)
    door = GrpcDoor(methods, Gate(bound_host="127.0.0.1"), settings, encryption=encryption)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        await door.serve(listeners, task_status=task_status)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield door, port
            nursery.cancel_scope.cancel()

    assert (0, 0) == (door.connections, door.unread_bytes)


async def dial(port: int) -> trio.SocketStream:
    """A connection to it."""
    return await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_call() -> None:
    """Comes in, and its answer goes out."""
    async with open_door() as (_, port), Client(await dial(port)) as client:
        heard = await client.call(REQUEST, path=PATH)

    assert ([REQUEST], 0) == (heard.messages, heard.status)


async def test_no_more_than_so_many_connections() -> None:
    """One too many is closed at once; when one has gone, there is room."""
    async with open_door(max_connections=1) as (door, port):
        async with Client(await dial(port)) as client:
            await client.call(REQUEST, path=PATH)
            async with Client(await dial(port)) as another:
                try:
                    await another.closed()
                except trio.BrokenResourceError:
                    another.is_closed = True
        await door.wait_empty()
        async with Client(await dial(port)) as later:
            heard = await later.call(REQUEST, path=PATH)

    assert (True, 0) == (another.is_closed, heard.status)


async def test_a_connections_fault_is_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours ends that connection and no other."""
    run = Connection.run
    faults = [KeyError("a secret prompt")]

    async def faulty(self: Connection) -> None:
        if faults:
            raise faults.pop()
        await run(self)

    monkeypatch.setattr(Connection, "run", faulty)
    async with open_door() as (_, port):
        async with Client(await dial(port)) as client:
            try:
                await client.closed()
            except trio.BrokenResourceError:
                client.is_closed = True
        async with Client(await dial(port)) as another:
            heard = await another.call(REQUEST, path=PATH)

    assert (True, 0) == (client.is_closed, heard.status)
    assert ("KeyError" in caplog.text, "secret" in caplog.text) == (True, False)


async def test_a_drain_waits_for_calls_and_takes_no_more_connections() -> None:
    """It is over when the last call is."""
    async with open_door() as (door, port), Client(await dial(port)) as client:
        stream_id = client.peer.open(path=PATH)
        await client.listen()
        while not client.peer.acked:
            client.peer.h2.ping(b"12345678")
            await client.listen()
        door.drain()
        client.peer.say(stream_id, b"\x00" + len(REQUEST).to_bytes(4, "big") + REQUEST, end=True)
        heard = await client.ended(stream_id)
        await client.closed()
        await client.stream.aclose()
        await door.wait_empty()
        with pytest.raises(OSError, match="connect"):
            await dial(port)

    assert (0, 0) == (heard.status, client.peer.goodbye)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


async def dial_encrypted(
    port: int, papers: Papers, protocol: str = "h2", *, known: bool = False
) -> trio.SSLStream[trio.SocketStream]:
    """A connection to it, before its handshake."""
    return trio.SSLStream(
        await dial(port),
        papers.client(protocol, known=known),
        server_hostname="localhost",
        https_compatible=True,
    )


async def status_of(client: Client) -> int | None:
    """How a call ended; None where it could not be made."""
    try:
        return (await client.call(REQUEST, path=PATH)).status
    except trio.BrokenResourceError:
        client.is_closed = True
        return None


@pytest.mark.parametrize(("protocol", "is_served"), [("h2", True), ("http/1.1", False)])
async def test_tls(papers: Papers, protocol: str, is_served: bool) -> None:
    """Encrypted it is the same; who does not choose HTTP/2 is not served."""
    async with (
        open_door(Encryption(papers.files)) as (_, port),
        Client(await dial_encrypted(port, papers, protocol)) as client,
    ):
        status = await status_of(client)

    assert (is_served, is_served) == (status == 0, not client.is_closed)


@pytest.mark.parametrize("known", [True, False])
async def test_mutual_tls(papers: Papers, known: bool) -> None:
    """Who has no certificate of the authority is refused at the handshake, who has is served."""
    async with open_door(Encryption(papers.mutual())) as (door, port):
        async with Client(await dial_encrypted(port, papers, known=known)) as client:
            status = await status_of(client)
        await door.wait_empty()

    assert (known, known) == (status == 0, not client.is_closed)


async def test_plain_text_at_an_encrypted_door(papers: Papers) -> None:
    """Is closed, and nobody else notices."""
    async with open_door(Encryption(papers.files)) as (door, port):
        async with Client(await dial_encrypted(port, papers)) as served:
            first = await status_of(served)
            async with Client(await dial(port)) as client:
                try:
                    await client.closed()
                except trio.BrokenResourceError:
                    client.is_closed = True
            second = await status_of(served)
        await door.wait_empty()

    assert (True, 0, 0) == (client.is_closed, first, second)


async def test_a_drain_waits_for_no_handshake(papers: Papers) -> None:
    """Nothing was begun for it; who has shaken hands is told that no more calls are taken."""
    async with open_door(Encryption(papers.files)) as (door, port):
        silent = await dial(port)
        async with silent, Client(await dial_encrypted(port, papers)) as client:
            status = await status_of(client)
            door.drain()
            await client.closed()
            await client.stream.aclose()
            await door.wait_empty()

    assert (0, 0) == (status, client.peer.goodbye)
