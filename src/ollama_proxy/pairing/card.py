"""What one router tells another of itself when they pair: name, port, node id and certificate."""

import json
import re
import ssl

import attrs

from ollama_proxy.pinned import der_of, fingerprint_of

NAME_MAX = 63
ID_DIGITS = 16
_PORT_MAX = 65535
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_MAX - 1}}}")


class BadCard(ValueError):  # noqa: N818 - the other router's fault
    """What was told makes no sense."""


def as_name(text: str) -> str:
    """A machine's name with what none may have left out; `router` where nothing is left."""
    return re.sub(r"^[._-]+|[^A-Za-z0-9._-]", "", text)[:NAME_MAX] or "router"


def is_name(text: str) -> bool:
    """Whether it may stand in a list, a log and a terminal."""
    return _NAME.fullmatch(text) is not None


def is_node_id(text: str) -> bool:
    """Whether it may be who a router is in a fleet."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) is not None


def id_of(fingerprint: str) -> str:
    """By what a paired router is known here: it follows from its certificate, so none can claim another's."""
    return fingerprint[:ID_DIGITS]


@attrs.frozen(kw_only=True)
class Card:
    """One router, in its own words.

    Attributes:
        name: for people.
        port: of its door for paired routers; 0: it has none, and only asks.
        node_id: who it is in a fleet.
        certificate: in PEM.
    """

    name: str
    port: int
    node_id: str
    certificate: str

    @property
    def fingerprint(self) -> str:
        """Of the certificate."""
        return fingerprint_of(der_of(self.certificate))

    def text(self) -> str:
        """For the other."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def read(cls, text: str) -> "Card":
        """What another has sent. Unknown fields are passed over: it may be newer. Raises BadCard."""
        try:
            told = json.loads(text)
            name, node_id = told["name"], told["node_id"]
            port, certificate = told["port"], told["certificate"]
            is_port = type(port) is int and 0 <= port <= _PORT_MAX
            if not (is_port and is_name(name) and is_node_id(node_id)):
                raise BadCard
            der_of(certificate)
        except (
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            RecursionError,
            ssl.SSLError,
        ) as error:
            raise BadCard("it tells of itself what makes no sense") from error
        return cls(name=name, port=port, node_id=node_id, certificate=certificate)
