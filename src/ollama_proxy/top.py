"""`ollama-proxy top`: how a router fares, as it goes on; once, where nobody can watch.

Law: only `top_screen` draws, and only it needs the extra `tui`; what it draws is decided here.
"""

import argparse
import json
import os
import sys
from http import HTTPStatus
from typing import Protocol

import attrs
import httpx

from ollama_proxy.client import (
    MISSHAPEN,
    NOT_OURS,
    OK,
    UNREACHED,
    Unanswered,
    ask,
    client_settings,
    complain,
    decoded,
    read_fault,
    router_url,
    unanswered,
)
from ollama_proxy.shown import Answer, show_backends, show_heat, show_mode, show_pulse
from ollama_proxy.terminal import Line, Terminal

ROUTES = {"efficiency": "/efficiency", "backends": "/backends", "thermal": "/thermal"}
HEAT_EVERY = 5  # looks: with it comes an hour of history, which nobody needs each second
PATIENCE_S = 10.0
NOT_INSTALLED = (
    "the live view needs a library that is not installed: pip install 'ollama-proxy-router[tui]'"
    " (`ollama-proxy top | cat` shows the same once)"
)


@attrs.frozen
class Sight:
    """What a router tells of itself at one moment.

    Attributes:
        told: the answers, by their names in ROUTES.
        rate: requests per second since the sight before; None where there is none.
    """

    told: dict[str, Answer]
    rate: float | None = None

    @property
    def requests(self) -> int:
        """How many there were since the router began; raises one of MISSHAPEN."""
        return sum(each["requests_total"] for each in self.told["backends"])

    def show(self, width: int | None) -> list[Line]:
        """All of it as lines; raises one of MISSHAPEN where it is no router's."""
        return [
            *show_mode(self.told["efficiency"], width, lists_all=False),
            show_pulse(self.told["backends"], self.rate),
            [],
            *show_backends(self.told["backends"], width),
            [],
            *show_heat(self.told["thermal"], width),
        ]


class Watchable(Protocol):
    """A router, to who watches it."""

    async def look(self) -> Sight:
        """Everything as it is now. Raises Unanswered."""

    async def set_mode(self, name: str) -> None:
        """Have it be in another mode. Raises Unanswered."""

    async def aclose(self) -> None:
        """Ask for nothing more."""


@attrs.define
class Router:
    """One that answers over HTTP, on a connection that is kept."""

    url: str
    client: httpx.AsyncClient
    _told: dict[str, Answer] = attrs.field(factory=dict)
    _looks: int = 0

    async def look(self) -> Sight:
        """Everything as it is now. Raises Unanswered."""
        looks, self._looks = self._looks, 0  # after a failure all is asked anew
        for name, path in ROUTES.items():
            if name != "thermal" or looks % HEAT_EVERY == 0:
                self._told[name] = await self._ask("GET", path)
        sight = Sight(dict(self._told))
        try:
            sight.show(None)
            show_mode(sight.told["efficiency"], None, lists_all=True)
        except MISSHAPEN as error:
            raise Unanswered(NOT_OURS.format(self.url)) from error
        self._looks = looks + 1
        return sight

    async def set_mode(self, name: str) -> None:
        """Have it be in another mode. Raises Unanswered."""
        await self._ask("POST", "/efficiency", {"mode": name})

    async def aclose(self) -> None:
        """Close the connection."""
        await self.client.aclose()

    async def _ask(self, method: str, path: str, body: object = None) -> Answer:
        try:
            answer = await self.client.request(method, self.url + path, json=body)
        except UNREACHED as error:
            raise Unanswered(unanswered(self.url, error)) from error
        return _wanted(*decoded(self.url, answer))


def _wanted(status: int, answer: Answer) -> Answer:
    """The answer, if it is one. Raises Unanswered."""
    if status != HTTPStatus.OK:
        raise Unanswered(read_fault(answer))
    return answer


def top(arguments: argparse.Namespace) -> int:
    """Watch a router until its user has seen enough; returns the exit code."""
    terminal = Terminal.of(sys.stdout, os.environ, arguments.color)
    try:
        # Keys come from stdin, and textual draws on stderr.
        is_watched = terminal.can_draw and sys.stdin.isatty() and sys.stderr.isatty()
        if arguments.json or not is_watched:
            return _show_once(arguments, terminal)
        if arguments.color == "never":
            os.environ["NO_COLOR"] = "1"  # before textual is imported, which reads it then
        try:
            from ollama_proxy.top_screen import Screen  # noqa: PLC0415 - an extra
        except ImportError:
            return complain(NOT_INSTALLED)
        url = router_url(arguments)
        client = httpx.AsyncClient(**client_settings(arguments, timeout=PATIENCE_S))
    except Unanswered as error:
        return complain(str(error))
    Screen(Router(url, client), url).run()
    return OK


def _show_once(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Raises Unanswered."""
    told = {name: _wanted(*ask(arguments, "GET", path)) for name, path in ROUTES.items()}
    if arguments.json:
        print(json.dumps(told, indent=2))
        return OK
    try:
        lines = Sight(told).show(terminal.width)
    except MISSHAPEN:
        return complain(NOT_OURS.format(router_url(arguments)))
    terminal.show(lines)
    return OK
