"""Callers of every door, each of whom asks once, and says what became of it.

Rule 1: a whole answer has exactly TOKENS tokens and its dialect's end; one that is neither whole nor
says that it is none is an AssertionError, whatever was done to the backends meanwhile.
Rule 2: what each asks is noted in the house before it is sent: the books may hold no more than that.
"""

import enum
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from tests.fault.house import House
from tests.fault.outcome import PATHS, TOKENS, WORD, End, end_of
from tests.inbound.ends import CHAT, Answer, post
from tests.inbound.grpc.peer import GENERATE
from tests.inbound.grpc.peer import Client as GrpcClient
from tests.inbound.killers import websocket_frame
from tests.routers import MODEL

PATIENCE_S = 60.0
UNREAD_S = 3.0
SHARE_STREAMED = 0.7
SHARE_LEFT = 0.2
TARGETS = ("", "npu", "cpu")
WHOLE_GRPC = 0


class Outcome(enum.StrEnum):
    """What became of a visit."""

    WHOLE = enum.auto()
    """Every token came, and the end."""
    TOLD = enum.auto()
    """An error came, in words of the door."""
    LEFT = enum.auto()
    """The visitor did not wait for it."""


Visit = Callable[[House, random.Random], Awaitable[Outcome]]


def request(path: str, *, stream: bool, name: str = "", tokens: int = TOKENS) -> bytes:
    """An HTTP request in one of the three dialects.

    Args:
        path: whose dialect it is.
        stream: whether the answer is to come in pieces.
        name: for which backend; "": for any.
        tokens: how many are wanted at most.
    """
    body: dict[str, object] = {
        "model": MODEL,
        "stream": stream,
        "messages": [{"role": "user", "content": "hi"}],
    }
    body |= {"options": {"num_predict": tokens}} if path == "/api/chat" else {"max_tokens": tokens}
    wish: dict[str, Any] = {"x_target_backend": name} if name else {}
    return post(path, body, **wish)


def _outcome(answer: Answer, path: str, *, streams: bool) -> Outcome:
    """Of an HTTP answer; where no words fit in any more, its framing tells that it was cut."""
    end = end_of(answer, path)
    assert end is not End.CUT or not streams, f"a stream was cut: {path} {answer}"
    return Outcome.WHOLE if end is End.WHOLE else Outcome.TOLD


async def over_http(house: House, chance: random.Random) -> Outcome:
    """One request on a connection of its own, in one of three dialects."""
    path = chance.choice(PATHS)
    streams = chance.random() < SHARE_STREAMED
    asked = request(path, stream=streams, name=chance.choice(TARGETS))
    async with house.connected() as client:
        if chance.random() >= SHARE_LEFT:
            return _outcome(await house.ask(asked, client), path, streams=streams)
        house.asked += 1
        await client.send(asked)
        with trio.move_on_after(chance.random() * 0.1):
            await client.read_to(WORD.encode())
        if chance.random() < 0.5:  # noqa: PLR2004 - as often as not
            client.reset()
        return Outcome.LEFT


async def over_kept_connections(house: House, chance: random.Random) -> Outcome:
    """Three requests on one connection, which an error may end."""
    outcome = Outcome.WHOLE
    async with house.connected() as client:
        for _ in range(3):
            streams = chance.random() < SHARE_STREAMED
            answer = await house.ask(request(CHAT, stream=streams), client)
            outcome = _outcome(answer, CHAT, streams=streams)
            if outcome is not Outcome.WHOLE:
                break
    return outcome


async def over_websocket(house: House, chance: random.Random) -> Outcome:
    """One request on a socket of the router's own words; some are cancelled, some just left."""
    leaves = chance.random() < SHARE_LEFT
    words = {"request_id": "1", "model": MODEL, "prompt": "hi", "options": {"num_predict": TOKENS}}

    async def talk(socket: WebSocketConnection) -> Outcome:
        house.asked += 1
        await socket.send_message(json.dumps(words))
        if leaves:
            await trio.sleep(chance.random() * 0.1)
            await socket.send_message(json.dumps({"type": "cancel", "request_id": "1"}))
            return Outcome.LEFT
        tokens = 0
        while True:
            said = json.loads(await socket.get_message())
            tokens += said.get("token", "").count(WORD)
            if said["done"]:
                break
        if "error" in said:
            return Outcome.TOLD
        assert tokens == TOKENS, f"it looks complete: {tokens} tokens, {said}"
        house.answered += 1
        return Outcome.WHOLE

    return await _on_a_socket(house, "/v1/stream/ws", talk)


async def over_realtime(house: House, chance: random.Random) -> Outcome:
    """One response of OpenAI's Realtime."""
    leaves = chance.random() < SHARE_LEFT
    content = [{"type": "input_text", "text": "hi"}]
    item = {"type": "message", "role": "user", "content": content}

    async def talk(socket: WebSocketConnection) -> Outcome:
        await socket.send_message(json.dumps({"type": "conversation.item.create", "item": item}))
        house.asked += 1
        response = {"max_output_tokens": TOKENS}
        await socket.send_message(json.dumps({"type": "response.create", "response": response}))
        if leaves:
            await trio.sleep(chance.random() * 0.1)
            return Outcome.LEFT
        tokens = 0
        while True:
            said = json.loads(await socket.get_message())
            if said["type"] == "response.output_text.delta":
                tokens += said["delta"].count(WORD)
            if said["type"] in {"response.done", "error"}:
                break
        if said["type"] == "error" or said["response"]["status"] == "failed":
            return Outcome.TOLD
        assert tokens == TOKENS, f"it looks complete: {tokens} tokens, {said}"
        house.answered += 1
        return Outcome.WHOLE

    return await _on_a_socket(house, f"/v1/realtime?model={MODEL}", talk)


async def _on_a_socket(
    house: House, path: str, talk: Callable[[WebSocketConnection], Awaitable[Outcome]]
) -> Outcome:
    host, port = house.router.door("http")
    async with await trio.open_tcp_stream(host, port) as stream, trio.open_nursery() as nursery:
        socket = await wrap_client_stream(nursery, stream, f"{host}:{port}", path)
        outcome = await talk(socket)
        if outcome is not Outcome.LEFT:
            await socket.aclose()
        nursery.cancel_scope.cancel()
        return outcome
    raise AssertionError("unreachable: nobody else cancels that nursery")


async def over_grpc(house: House, chance: random.Random) -> Outcome:
    """One call, streamed or not; who leaves closes the connection in the middle of it."""
    streams = chance.random() < SHARE_STREAMED
    asked = pb.GenerateRequest(
        prompt="hi", model=MODEL, options=pb.GenerateOptions(num_predict=TOKENS)
    )
    host, port = house.router.door("grpc")
    async with GrpcClient(await trio.open_tcp_stream(host, port)) as client:
        house.asked += 1
        call = client.call(asked.SerializeToString(), path=GENERATE + ("Stream" if streams else ""))
        if chance.random() < SHARE_LEFT:
            with trio.move_on_after(chance.random() * 0.1):
                await call
            return Outcome.LEFT
        heard = await call
    assert heard.status is not None, f"cut: {heard}"
    if heard.status != WHOLE_GRPC:
        return Outcome.TOLD
    texts = [pb.GenerateResponse.FromString(each).response for each in heard.messages]
    tokens = "".join(texts).count(WORD)
    assert tokens == TOKENS, f"it looks complete: {tokens} tokens"
    house.answered += 1
    return Outcome.WHOLE


async def at_the_desk(house: House, chance: random.Random) -> Outcome:
    """Somebody who looks at what the router tells of itself."""
    paths = ("/backends", "/metrics", "/healthz", "/thermal", "/efficiency", "/v1/models")
    answer = await house.get(chance.choice(paths))
    answer.raise_for_status()
    return Outcome.WHOLE


VISITS: dict[str, Visit] = {
    "http": over_http,
    "kept": over_kept_connections,
    "websocket": over_websocket,
    "realtime": over_realtime,
    "grpc": over_grpc,
    "desk": at_the_desk,
}


async def visit(name: str, house: House, chance: random.Random) -> Outcome:
    """Pay a visit.

    Raises:
        AssertionError: what came back was cut, or looked complete and was not.
        trio.TooSlowError: nothing came for a minute.
    """
    with trio.fail_after(PATIENCE_S):
        return await VISITS[name](house, chance)


async def stop_reading(house: House) -> None:
    """Ask for megabytes, and read none of them until the router has given up."""
    async with house.connected(buffer_bytes=4096) as client:
        house.asked += 1
        await client.send(request(CHAT, stream=True, tokens=1_000_000))
        with trio.move_on_after(UNREAD_S):
            await client.read_to(WORD.encode())
            await trio.sleep(UNREAD_S)


async def say_half(house: House, chance: random.Random) -> None:
    """Break off within a request, at some byte of it; or within a frame."""
    whole = request(chance.choice(PATHS), stream=True)
    if chance.random() < 0.3:  # noqa: PLR2004 - the most are HTTP
        whole = websocket_frame(1, b"x" * 100)
    async with house.connected() as client:
        await client.send(whole[: chance.randrange(1, len(whole))])
        await trio.sleep(chance.random() * 0.5)
