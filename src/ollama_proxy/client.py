"""The commands that talk to a running router over HTTP, and print what it answers."""

import argparse
import json
import os
import re
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from ollama_proxy.certificates import BadCertificate, client_context
from ollama_proxy.config import Overrides, Server, find_config, load
from ollama_proxy.tables import ConfigFaults, describe_faults

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
Answer = Any  # decoded JSON, of the shape that the contract gives the endpoint


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
        # In plain text there is nothing to verify, and reading the system's authorities takes time.
        verify = encryption(arguments, url) or False
        headers_of_key = key_headers(arguments)
        with httpx.Client(
            trust_env=False, timeout=10, headers=headers_of_key, verify=verify
        ) as client:
            answer = client.request(method, url + path, json=body, headers=headers)
        return answer.status_code, answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unanswered(unanswered(url, error)) from error
    except ValueError as error:
        raise Unanswered(NOT_OURS.format(url)) from error


def _report(
    arguments: argparse.Namespace,
    call: Callable[[], tuple[int, Answer]],
    show: Callable[[Answer], None],
    *,
    is_ours: Callable[[Answer], bool],
) -> int:
    """Make a call and show its answer; errors in one sentence.

    Args:
        arguments: the command's.
        call: asks the router.
        show: prints an answer for people.
        is_ours: whether an answer has the shape that `show` knows; other servers answer, too.
    """
    try:
        status, answer = call()
    except Unanswered as error:
        print(f"ollama-proxy: {error}", file=sys.stderr)
        return FAILED
    if status == HTTPStatus.OK and not is_ours(answer):
        print(f"ollama-proxy: {NOT_OURS.format(router_url(arguments))}", file=sys.stderr)
        return FAILED
    if arguments.json:
        print(json.dumps(answer, indent=2))
    elif status == HTTPStatus.OK:
        show(answer)
    else:
        print(f"ollama-proxy: {read_fault(answer)}", file=sys.stderr)
    return OK if status == HTTPStatus.OK else FAILED


def read_fault(answer: Answer) -> str:
    """What an answer that is an error says, in whichever dialect."""
    fault = answer.get("error", answer) if isinstance(answer, dict) else answer
    return str(fault.get("message", fault) if isinstance(fault, dict) else fault)


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
    """Print rows in columns as wide as they need."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def status(arguments: argparse.Namespace) -> int:
    """Is the router well?"""

    def show(health: Answer) -> None:
        if "backends" not in health:
            print(f"{health['status']}; with an API key that may read, there is more to tell")
            return
        print(f"{health['status']}: {health['healthy']} of {health['total']} backends healthy")
        print_table([("  " + name, state) for name, state in health["backends"].items()] or [("",)])

    return _report(
        arguments,
        lambda: ask(arguments, "GET", "/health"),
        show,
        is_ours=lambda health: (
            isinstance(health, dict) and ("backends" in health or health.keys() == {"status"})
        ),
    )


def backends(arguments: argparse.Namespace) -> int:
    """What is known of each backend."""

    def show(backends: Answer) -> None:
        rows: list[Sequence[object]] = [
            ("ID", "HARDWARE", "STATE", "SLOTS", "WAITING", "FIRST TOKEN", "WATTS", "MODELS")
        ]
        for backend in backends:
            healthy = "healthy" if backend["healthy"] else "unhealthy"
            first_ms = backend["latency"]["ttft_ms"]["value"]
            rows.append((
                backend["id"],
                backend["hardware"],
                healthy if backend["enabled"] else "disabled",
                f"{backend['in_flight']}/{backend['slots']}",
                sum(backend["queued"].values()),
                None if first_ms is None else f"{first_ms:.0f} ms",
                backend["power_watts"]["value"],
                len(backend["models"] or ()),
            ))
        print_table(rows)

    return _report(
        arguments,
        lambda: ask(arguments, "GET", "/backends"),
        show,
        is_ours=lambda backends: isinstance(backends, list),
    )


def route(arguments: argparse.Namespace) -> int:
    """Explain a decision without sending anything."""

    def show(decision: Answer) -> None:
        print(f"{decision['backend']} ({decision['reason']})")
        rows: list[Sequence[object]] = [("CANDIDATE", "SCORE", "FIRST TOKEN", "WATTS", "TERMS")]
        for candidate in decision["candidates"]:
            if not candidate["eligible"]:
                rows.append((candidate["backend"], None, None, None, candidate["why_not"]))
                continue
            terms = " ".join(f"{k}={v:+.2f}" for k, v in candidate["terms"].items())
            rows.append((
                candidate["backend"],
                f"{candidate['score']:.2f}",
                f"{candidate['predicted_ttft_ms']:.0f} ms",
                candidate["predicted_watts"],
                terms,
            ))
        print_table(rows)

    return _report(
        arguments,
        lambda: ask(
            arguments,
            "POST",
            "/v1/route",
            body={"model": arguments.model},
            headers=wish_headers(arguments),
        ),
        show,
        is_ours=lambda decision: isinstance(decision, dict) and "candidates" in decision,
    )


def thermal(arguments: argparse.Namespace) -> int:
    """How warm the machine is, how its fans turn, what it draws."""

    def show(heat: Answer) -> None:
        print(f"{heat['state']}")
        rows: list[Sequence[object]] = [("SENSOR", "NOW", "LIMIT", "PART", "")]
        for zone in heat["zones"]:
            limit = zone["limit_c"]
            rows.append((
                zone["name"],
                _reading(zone, "temperature_c", "°C"),
                None if limit is None else f"{limit:.0f} °C",
                zone["part"],
                "throttled" if zone["throttling"] else "",
            ))
        rows += [(f["name"], _reading(f, "rpm", "RPM"), None, None, "") for f in heat["fans"]]
        rows += [(d["name"], _reading(d, "watts", "W"), None, d["part"], "") for d in heat["power"]]
        print_table(rows)

    return _report(
        arguments,
        lambda: ask(arguments, "GET", "/thermal"),
        show,
        is_ours=lambda heat: isinstance(heat, dict) and "zones" in heat,
    )


def _reading(told: Answer, key: str, unit: str) -> str:
    """A value with its unit, or why there is none."""
    value, quality = told[key], told["quality"]
    if value is not None:
        return f"{value:g} {unit}"
    return "-" if quality == "ok" else str(quality)  # some tell of throttling alone


def mode(arguments: argparse.Namespace) -> int:
    """Which mode is in force, and why; or set it."""

    def call() -> tuple[int, Answer]:
        if arguments.name is None:
            return ask(arguments, "GET", "/efficiency")
        return ask(arguments, "POST", "/efficiency", body={"mode": arguments.name})

    def show(told: Answer) -> None:
        print(f"{told['mode']}, in force: {told['effective_mode']} ({told['reason']})")
        battery = told["battery_percent"]
        if battery is not None:
            source = "on battery" if told["on_battery"] else "on mains"
            print(f"{source}, {battery:.0f} %")
        if arguments.name is None:
            print_table([("  " + m["name"], m["description"]) for m in told["modes"]])

    return _report(
        arguments,
        call,
        show,
        is_ours=lambda told: isinstance(told, dict) and "effective_mode" in told,
    )
