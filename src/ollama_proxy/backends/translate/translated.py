"""What a translated call consists of, whichever the direction."""

from collections.abc import Callable
from typing import Protocol

import attrs

from ollama_proxy.policy.ask import Call


class Pieces(Protocol):
    """Translates one streamed answer, in whatever slices its bytes arrive."""

    @property
    def tokens(self) -> int:
        """How many pieces of content the backend has sent so far."""

    @property
    def error(self) -> str | None:
        """What the backend said went wrong; nothing of the stream is told after that."""

    def feed(self, data: bytes) -> bytes:
        """Translate what these bytes complete; often nothing. Raises GarbledAnswer."""

    def finish(self) -> bytes:
        """Translate what is left, as the stream has ended.

        Raises:
            GarbledAnswer: the stream broke off before the answer's end.
        """


@attrs.frozen(kw_only=True)
class Stamp:
    """What a translation is told from outside; see `translation`."""

    model: str
    now: float
    identity: str


@attrs.frozen(kw_only=True)
class Translation:
    """A call in the backend's dialect, with the way back to the caller's.

    Attributes:
        call: the call to make on the backend.
        ready: the whole answer (JSON), when the call needs no backend: Ollama's clients send an
            empty prompt to have a model loaded, which OpenAI's calls cannot say.
    """

    call: Call
    ready: bytes | None = None
    _body: bytes
    _whole: Callable[[bytes], bytes]
    _pieces: Callable[[], Pieces]

    def request(self) -> bytes:
        """The JSON body to send."""
        return self._body

    def whole(self, body: bytes) -> bytes:
        """Translate a complete answer with status 2xx. Raises GarbledAnswer."""
        return self._whole(body)

    def pieces(self) -> Pieces:
        """A translator for one streamed answer."""
        return self._pieces()
