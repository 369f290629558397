"""Nodes by DNS: every address of one name, asked for again and again.

The system's resolver is asked, which knows /etc/hosts, search domains and mDNS names as its owner set
them up. It tells no time to live; its own cache heeds that.
"""

import ipaddress
import socket
from typing import NoReturn

import attrs
import trio

from ollama_proxy.discovery.report import Report, SourceLost, keep_asking
from ollama_proxy.policy.roster import FoundNode
from ollama_proxy.policy.whereabouts import leads_astray, url_of

TIMEOUT_S = 10.0


@attrs.frozen(kw_only=True)
class DnsSettings:
    """What is asked, and how often.

    Attributes:
        name: whose addresses are nodes.
        port: of each.
        scheme: http or https.
        refresh_s: seconds from one answer to the next question.
    """

    name: str
    port: int
    scheme: str
    refresh_s: float


async def watch_dns(settings: DnsSettings, report: Report) -> NoReturn:
    """Report the nodes until cancelled.

    Error handling: a name that is not known, and a resolver that does not answer, are a lost source.
    """

    async def ask() -> None:
        while True:
            report.nodes(await _resolve(settings))
            await trio.sleep(settings.refresh_s)

    await keep_asking(report, ask)


async def _resolve(settings: DnsSettings) -> list[FoundNode]:
    try:
        with trio.fail_after(TIMEOUT_S):
            found = await trio.socket.getaddrinfo(
                settings.name, settings.port, type=socket.SOCK_STREAM
            )
    except trio.TooSlowError:
        raise SourceLost(f"no answer within {TIMEOUT_S:g} s") from None
    except (OSError, UnicodeError) as error:
        raise SourceLost(str(error)) from error
    is_local = _is_local(settings.name)
    return [
        FoundNode(url=url_of(settings.scheme, str(address[0]), settings.port))
        for *_, address in found
        if not leads_astray(str(address[0]), is_local=is_local)
    ]


def _is_local(name: str) -> bool:
    """Whether its owner asks for this very machine; another name may not lead there."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower().rpartition(".")[2] == "localhost"
