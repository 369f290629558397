"""The conversation on sockets: who offers listens for a while, who asks connects; both give up in time.

Bounds: a line has a length, a conversation a time, and there are only so many at once, and of one address;
who comes without a right proof is told a word and forgotten. How often a code may be tried is the offer's.
"""

import contextlib
import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from ollama_proxy.pairing.card import Card
from ollama_proxy.pairing.code import Offer
from ollama_proxy.pairing.exchange import (
    LINE_MAX,
    Asking,
    NotPaired,
    Offering,
    refusal,
)

TALK_S = 20.0
FAREWELL_S = 1.0
TALKS = 8
TALKS_PER_PEER = 2
_READ_BYTES = 4096
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class _Lines:
    """The lines of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._rest = bytearray()

    async def read(self) -> bytes:
        """The next, without its end. Raises NotPaired: there is none, or it is too long."""
        while (end := self._rest.find(b"\n")) < 0:
            data = await self.stream.receive_some(_READ_BYTES)
            if not data:
                raise NotPaired("the other side has hung up")
            self._rest += data
            if len(self._rest) > LINE_MAX:
                raise NotPaired
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    async def write(self, line: bytes) -> None:
        await self.stream.send_all(line)


async def ask(stream: trio.abc.Stream, code: str, card: Card) -> Card:
    """Pair with who offers at the other end; who that is. Raises NotPaired."""
    lines, asking = _Lines(stream), Asking(code, card)
    try:
        with trio.fail_after(TALK_S):
            await lines.write(asking.hello())
            await lines.write(asking.show(await lines.read()))
            await lines.write(asking.take(await lines.read()))
            return asking.end(await lines.read())
    except trio.TooSlowError as error:
        raise NotPaired("the other side says nothing") from error
    except _GONE as error:
        raise NotPaired("the connection broke") from error


@attrs.define(eq=False)
class Reception:
    """Where a code is offered: hears who comes, until one has proven to know it.

    Attributes:
        offer: the code.
        card: what is told of this router.
        keep: writes down who has come, by card and address; raises what `receive` then raises.
        tell: is told of each who failed, by address and why.
        paired: who has come; None while nobody has.
    """

    offer: Offer
    card: Card
    keep: Callable[[Card, str], None]
    tell: Callable[[str, NotPaired], None]
    paired: tuple[Card, str] | None = None
    _talks: Counter[str] = attrs.field(factory=Counter)
    _knows: bool = False

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> tuple[Card, str] | None:
        """Wait for the one; card and address. None: the code is good no longer."""
        with trio.move_on_after(self.offer.ends - trio.current_time()):
            async with trio.open_nursery() as nursery:

                async def hear(stream: trio.SocketStream) -> None:
                    await self.receive(stream, _address(stream))
                    if self._is_over():
                        nursery.cancel_scope.cancel()

                for listener in listeners:
                    nursery.start_soon(_accept, listener, hear, nursery)
        return self.paired

    def _is_over(self) -> bool:
        """Whether nobody can pair any more, and nobody is about to."""
        return not (self._knows or self.offer.is_open(trio.current_time()))

    async def receive(self, stream: trio.abc.Stream, address: str) -> None:
        """Talk with one who has come, and hang up."""
        async with stream:
            why = await self._failure(_Lines(stream), address)
            if why is not None:
                self.tell(address, why)
                with contextlib.suppress(*_GONE), trio.move_on_after(FAREWELL_S):
                    await stream.send_all(refusal(why))

    async def _failure(self, lines: _Lines, address: str) -> NotPaired | None:
        """Why they are not paired; None where they are."""
        if self._talks.total() >= TALKS or self._talks[address] >= TALKS_PER_PEER:
            return NotPaired(word="busy")
        self._talks[address] += 1
        try:
            with trio.fail_after(TALK_S):
                await self._talk(lines, address)
        except trio.TooSlowError:
            return NotPaired("it said nothing")
        except _GONE:
            return NotPaired("the connection broke")
        except NotPaired as why:
            return why
        finally:
            self._talks[address] -= 1
        return None

    async def _talk(self, lines: _Lines, address: str) -> None:
        offering = Offering(self.offer, self.card)
        await lines.write(offering.greet(await lines.read()))
        theirs, ours = offering.judge(await lines.read(), trio.current_time())
        self._knows = True
        try:
            await lines.write(ours)
            last = offering.settle(await lines.read())
            self.keep(theirs, address)
            self.paired = theirs, address
            # They are, whether they hear so or not.
            with contextlib.suppress(*_GONE):
                await lines.write(last)
        finally:
            self._knows = False


async def _accept(
    listener: trio.SocketListener,
    hear: Callable[[trio.SocketStream], Awaitable[None]],
    nursery: trio.Nursery,
) -> None:
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                raise
            await trio.sleep(0.1)
            continue
        nursery.start_soon(hear, stream)


def _address(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""
