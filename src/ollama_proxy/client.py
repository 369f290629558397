"""The commands that talk to a running router over HTTP, and print what it answers."""

import argparse
import json
import os
import re
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from ollama_proxy.certificates import BadCertificate, client_context
from ollama_proxy.config import Overrides, Server, find_config, load
from ollama_proxy.shown import (
    Answer,
    show_backends,
    show_decision,
    show_health,
    show_heat,
    show_mode,
)
from ollama_proxy.tables import ConfigFaults, describe_faults
from ollama_proxy.terminal import Column, Line, Terminal, cell, harmless, printable, table

OK = 0
FAILED = 1
# Flags of `route` and `say`, and the headers that they are.
WISHES = {
    "target": "X-Target-Backend",
    "max_latency_ms": "X-Max-Latency-Ms",
    "max_power_watts": "X-Max-Power-Watts",
    "priority": "X-Priority",
    "media_type": "X-Media-Type",
}
KEY_VARIABLE = "OLLAMA_PROXY_API_KEY"
CA_VARIABLE = "OLLAMA_PROXY_CA_FILE"
CERT_VARIABLE = "OLLAMA_PROXY_CERT_FILE"
NOT_OURS = "{} answers, but is no ollama-proxy"
# What httpx raises where nothing that it understands comes back; UnicodeError: `http://..` is no name.
UNREACHED = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)
ANSWER_MAX_BYTES = 64 << 20
SAID_MAX = 1000  # characters of a fault that others tell
# What it raises to take an answer for one that it is not.
MISSHAPEN = (KeyError, TypeError, AttributeError, ValueError)


class Unanswered(Exception):  # noqa: N818 - read as a sentence
    """The router did not answer, or answered with an error."""


def router_url(arguments: argparse.Namespace) -> str:
    """Where the router is: as the flag says, else the configuration. Raises Unanswered."""
    if arguments.url:
        return str(arguments.url).rstrip("/")
    server, host = _server()
    return f"{'https' if server.tls.files else 'http'}://{host}:{server.http_port}"


def grpc_target(arguments: argparse.Namespace) -> tuple[str, bool]:
    """Where its gRPC door is, as `HOST:PORT`, and whether it is under TLS. Raises Unanswered."""
    if arguments.url:
        scheme, _, target = str(arguments.url).rpartition("//")
        return target.rstrip("/"), scheme == "https:"
    server, host = _server()
    return f"{host}:{server.grpc_port}", server.tls.files is not None


def papers(arguments: argparse.Namespace) -> tuple[str, str]:
    """The files by which a client under TLS knows the router, and is known; "" where none is named."""
    return (
        arguments.ca_file or os.environ.get(CA_VARIABLE, ""),
        arguments.cert_file or os.environ.get(CERT_VARIABLE, ""),
    )


def encryption(arguments: argparse.Namespace, url: str) -> ssl.SSLContext | None:
    """What a client of `url` encrypts with; None where it speaks plain text. Raises Unanswered."""
    if not url.startswith("https:"):
        return None
    try:
        return client_context(*papers(arguments))
    except BadCertificate as bad:
        (_, fault), *_ = bad.faults
        raise Unanswered(fault) from bad


def unanswered(url: str, error: BaseException) -> str:
    """Why a call came to nothing: nobody is there, or nobody whom one may trust."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"whoever answers on {url} is not to be trusted: {cause.verify_message}."
                " Name who signed the router's certificate with --ca-file."
            )
        cause = cause.__cause__ or cause.__context__
    return f"no router answers on {url}: {str(error) or type(error).__name__}"


def _server() -> tuple[Server, str]:
    """The configured server, and the host by which it is reached from here."""
    try:
        path = find_config(None, os.environ, Path.cwd())
        server = load(path, environ=os.environ, overrides=Overrides()).config.server
    except ConfigFaults as faults:
        raise Unanswered(f"{describe_faults(faults)}\nName the router with --url.") from faults
    host = "127.0.0.1" if server.host in {"0.0.0.0", "::"} else server.host  # noqa: S104 - compared with
    return server, f"[{host}]" if ":" in host else host


def key_headers(arguments: argparse.Namespace) -> dict[str, str]:
    """The header that carries the API key, if there is one. Raises Unanswered.

    No flag takes the key itself: every user of a machine sees the arguments of all programs.
    """
    given = os.environ.get(KEY_VARIABLE, "")
    if arguments.api_key_file:
        try:
            given = Path(arguments.api_key_file).read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise Unanswered(f"{arguments.api_key_file} cannot be read: {why}") from None
    key = given.strip()
    if not key:
        return {}
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise Unanswered("the API key has characters that no key has")
    return {"Authorization": f"Bearer {key}"}


def client_settings(
    arguments: argparse.Namespace, *, timeout: float | httpx.Timeout
) -> dict[str, Any]:
    """How every command's client of a router is made, whether httpx's sync or its async one.

    Raises:
        Unanswered: the key or the certificates that flags name are of no use.
    """
    return {
        "trust_env": False,
        "timeout": timeout,
        "headers": key_headers(arguments),
        # In plain text there is nothing to verify, and reading the system's authorities takes time.
        "verify": encryption(arguments, router_url(arguments)) or False,
    }


def ask(
    arguments: argparse.Namespace,
    method: str,
    path: str,
    *,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """One call to a running router: status and decoded answer. Raises Unanswered."""
    url = router_url(arguments)
    try:
        with (
            httpx.Client(**client_settings(arguments, timeout=10)) as client,
            client.stream(method, url + path, json=body, headers=headers) as answer,
        ):
            return decoded(url, _read_whole(url, answer))
    except UNREACHED as error:
        raise Unanswered(unanswered(url, error)) from error


def _read_whole(url: str, answer: httpx.Response) -> httpx.Response:
    """An answer with its body, undone of any coding. Raises Unanswered: no router's is so long."""
    pieces, size = [], 0
    for piece in answer.iter_bytes():
        pieces.append(piece)
        size += len(piece)
        if size > ANSWER_MAX_BYTES:
            raise Unanswered(NOT_OURS.format(url))
    told = {name: answer.headers[name] for name in ("x-backend-used",) if name in answer.headers}
    return httpx.Response(answer.status_code, headers=told, content=b"".join(pieces))


def decoded(url: str, answer: httpx.Response) -> tuple[int, Answer]:
    """Status and JSON of an answer. Raises Unanswered."""
    try:
        return answer.status_code, answer.json()
    except (ValueError, RecursionError) as error:
        raise Unanswered(not_ours(url, answer)) from error


def not_ours(url: str, answer: httpx.Response) -> str:
    """Who answers in the router's place; a proxy before it that refuses says so by its status."""
    if answer.is_success:
        return NOT_OURS.format(url)
    status = f"{answer.status_code} {httpx.codes.get_reason_phrase(answer.status_code)}".strip()
    if backend := answer.headers.get("x-backend-used"):
        return f"the backend {backend} answers with {status}"
    return f"{url} answers with {status}, but is no ollama-proxy"


def complain(sentence: str) -> int:
    """Say on stderr what went wrong; returns the exit code."""
    print(f"ollama-proxy: {harmless(sentence)}", file=sys.stderr)
    return FAILED


def _report(
    arguments: argparse.Namespace,
    call: Callable[[], tuple[int, Answer]],
    show: Callable[[Answer, int | None], list[Line]],
) -> int:
    """Make a call and show its answer; errors in one sentence.

    Args:
        arguments: the command's.
        call: asks the router.
        show: an answer as lines for people, for a terminal of some width; raises one of MISSHAPEN
            where it is of another shape: other servers answer, too.
    """
    try:
        status, answer = call()
    except Unanswered as error:
        if arguments.json:
            print(json.dumps({"error": {"message": str(error), "code": "no_answer"}}, indent=2))
        return complain(str(error))
    if arguments.json:
        print(json.dumps(answer, indent=2))
    elif status != HTTPStatus.OK:
        return complain(read_fault(answer))
    else:
        terminal = Terminal.of(sys.stdout, os.environ, arguments.color)
        try:
            lines = show(answer, terminal.width)
        except MISSHAPEN:
            return complain(NOT_OURS.format(router_url(arguments)))
        terminal.show(lines)
    return OK if status == HTTPStatus.OK else FAILED


def read_fault(answer: Answer) -> str:
    """What an answer that is an error says, in whichever dialect."""
    fault = answer.get("error", answer) if isinstance(answer, dict) else answer
    said = str(fault.get("message", fault) if isinstance(fault, dict) else fault)
    if isinstance(fault, dict) and fault.get("code") == "invalid_api_key":
        # The router tells what to send; how these commands are told to, it cannot know.
        said += f" Name a file that holds the key with --api-key-file, or set {KEY_VARIABLE}."
    return printable(said if len(said) <= SAID_MAX else said[:SAID_MAX] + " ...")


def wish_headers(arguments: argparse.Namespace) -> dict[str, str]:
    """The flags that say how a request is to be served, as headers."""
    headers = {
        header: str(value)
        for wish, header in WISHES.items()
        if (value := getattr(arguments, wish)) is not None
    }
    if arguments.latency_critical:
        headers["X-Latency-Critical"] = "true"
    if arguments.power_efficient:
        headers["X-Power-Efficient"] = "true"
    return headers


def print_table(rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns as wide as they need, the first one's as the others'."""
    terminal = Terminal.of(sys.stdout, os.environ, "never")
    columns = [Column("") for _ in rows[0]]
    terminal.show(table(columns, [list(map(cell, row)) for row in rows]))


def status(arguments: argparse.Namespace) -> int:
    """Is the router well?"""
    return _report(
        arguments,
        lambda: ask(arguments, "GET", "/health"),
        show_health,
    )


def backends(arguments: argparse.Namespace) -> int:
    """What is known of each backend."""
    return _report(
        arguments,
        lambda: ask(arguments, "GET", "/backends"),
        show_backends,
    )


def route(arguments: argparse.Namespace) -> int:
    """Explain a decision without sending anything."""
    return _report(
        arguments,
        lambda: ask(
            arguments,
            "POST",
            "/v1/route",
            body={"model": arguments.model},
            headers=wish_headers(arguments),
        ),
        show_decision,
    )


def thermal(arguments: argparse.Namespace) -> int:
    """How warm the machine is, how its fans turn, what it draws."""
    return _report(
        arguments,
        lambda: ask(arguments, "GET", "/thermal"),
        show_heat,
    )


def mode(arguments: argparse.Namespace) -> int:
    """Which mode is in force, and why; or set it."""

    def call() -> tuple[int, Answer]:
        if arguments.name is None:
            return ask(arguments, "GET", "/efficiency")
        return ask(arguments, "POST", "/efficiency", body={"mode": arguments.name})

    return _report(
        arguments,
        call,
        partial(show_mode, lists_all=arguments.name is None),
    )
