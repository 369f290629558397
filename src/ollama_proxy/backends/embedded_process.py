"""The embedded model server's life as seen from the router: started, watched, started again, ended.

All work is done in a child process (`embedded_child`), putting the model together included: neither
a disk that is slow nor a fault in native code can touch the router.
"""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, TextIO

import attrs
import trio

from ollama_proxy.backends.embedded_child import MODEL_PACKAGE, SERVER_PACKAGE, Exit, Word

log = logging.getLogger("ollama_proxy.embedded")

_DEFAULT_MODEL = "gemma3-270m"
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_HEALTHY_S = 60.0
_LINE_BYTES = 2000
_QUARTER = 25


@attrs.frozen(kw_only=True)
class Launch:
    """How to start the server.

    Attributes:
        model_path: a GGUF file; empty for the default model.
        slots: how many answers it computes at once.
        context_tokens: prompt and answer together, for each slot; 0: as the model was trained.
        threads: None: by the number of cores.
        grace_s: how long the child may take to end when told to.
        command: the child's program; the options of `embedded_child` are added to it. Isolated
            from the working directory, where a file may bear the name of a module.
    """

    model_path: str = ""
    slots: int = 1
    context_tokens: int = 4096
    threads: int | None = None
    grace_s: float = 5.0
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "ollama_proxy.backends.embedded_child")

    @property
    def model_name(self) -> str:
        """The model's name for callers, and in the server's own list."""
        return Path(self.model_path).stem if self.model_path else default_model_name()

    def arguments(self, socket: str) -> tuple[str, ...]:
        """The whole command line of a child that listens on `socket`."""
        options = {
            "alias": self.model_name,
            "model-path": self.model_path,
            "socket": socket,
            "slots": self.slots,
            "context-tokens": self.context_tokens,
            "threads": self.threads or 0,
        }
        return (*self.command, *(f"--{name}={value}" for name, value in options.items()))


@attrs.frozen
class Assembling:
    """The default model is being put together; once on each machine."""

    done_bytes: int
    total_bytes: int


@attrs.frozen
class Starting:
    """The model is being loaded."""


@attrs.frozen
class Ready:
    """It answers. `endpoint` is fit for `Endpoint.parse` and stays the same over restarts."""

    endpoint: str
    model: str


@attrs.frozen
class Down:
    """It is not there. `why` says what to do; it is tried again in `retry_in_s`, None: never."""

    why: str
    retry_in_s: float | None = None

    @property
    def permanent(self) -> bool:
        """Whether it stays down until somebody has done something."""
        return self.retry_in_s is None


EmbeddedState = Assembling | Starting | Ready | Down


def default_model_name() -> str:
    """The default model's name for callers."""
    return _DEFAULT_MODEL


def is_available(model_path: str = "") -> bool:
    """Whether what it takes is installed, at the price of looking for files, importing nothing."""
    packages = (SERVER_PACKAGE,) if model_path else (SERVER_PACKAGE, MODEL_PACKAGE)
    return all(importlib.util.find_spec(package) is not None for package in packages)


def pause_after(pause_s: float, *, healthy_s: float) -> float:
    """How long to wait before the next start, when the last wait was `pause_s` (0: none yet)."""
    if not pause_s or healthy_s >= _HEALTHY_S:
        return _FIRST_PAUSE_S
    return min(2 * pause_s, _LONGEST_PAUSE_S)


async def serve_model(launch: Launch, *, on_state: Callable[[EmbeddedState], None]) -> NoReturn:
    """Keep the server running until cancelled, telling `on_state` of every change.

    Resource handling: the child has ended and its socket is gone when this is left; a router that
    is killed takes the child with it.

    Error handling: nothing goes up but what `on_state` raises. A child that ends is started again
    after 1 s, doubling to 60 s; a fault that only a person can mend ends the attempts.
    """
    try:
        room = tempfile.TemporaryDirectory(
            prefix="ollama-proxy-", dir=_runtime_dir(), ignore_cleanup_errors=True
        )
    except OSError as error:
        await _stay_down(f"there is no place for its socket: {error}", on_state)
    with room as directory:
        pause_s = 0.0
        while True:
            life = await _live_once(launch, f"{directory}/server.sock", on_state)
            if life.is_final:
                await _stay_down(life.why, on_state)
            pause_s = pause_after(pause_s, healthy_s=life.healthy_s)
            log.warning("the embedded model is down, next start in %g s: %s", pause_s, life.why)
            on_state(Down(life.why, pause_s))
            await trio.sleep(pause_s)


async def _stay_down(why: str, on_state: Callable[[EmbeddedState], None]) -> NoReturn:
    log.error("the embedded model stays off: %s", why)
    on_state(Down(why))
    await trio.sleep_forever()


@attrs.frozen(kw_only=True)
class _Life:
    """How one child's life went."""

    why: str
    is_final: bool = False
    healthy_s: float = 0.0


@attrs.define
class _Record:
    """What one child has told so far."""

    model: str
    progress: "_Progress"
    why: str = ""
    error: str = ""
    last_line: str = ""
    ready_since: float | None = None

    def hear(self, line: str) -> EmbeddedState | None:
        """Take one event line; the state it means, if it means one."""
        word, _, rest = line.partition(" ")
        match word:
            case Word.ASSEMBLING.value:
                done_bytes, total_bytes = (int(number) for number in rest.split())
                self.progress.show(done_bytes, total_bytes)
                return Assembling(done_bytes, total_bytes)
            case Word.STARTING.value:
                return Starting()
            case Word.READY.value:
                return Ready(rest, self.model)
            case Word.FAILED.value:
                self.why = rest
            case Word.WAITING.value:
                log.info("another process is putting the default model together; waiting for it")
            case _:
                log.debug("%s", line)
        return None

    def hear_log(self, line: str) -> None:
        """Take one line of llama.cpp's log: time, a letter for the level, the rest."""
        is_error = " E " in line[:20]
        # While loading, the first error is the cause of the others.
        if is_error and (not self.error or self.ready_since is not None):
            self.error = line
        self.last_line = line
        log.log(logging.WARNING if is_error else logging.DEBUG, "%s", line)

    def life(self, returncode: int, *, now: float) -> _Life:
        """What to make of it after its end."""
        healthy_s = 0.0 if self.ready_since is None else now - self.ready_since
        if returncode == -signal.SIGILL:
            why = f"{SERVER_PACKAGE} was built for a newer processor than this: use another backend"
            return _Life(why=why, is_final=True)
        is_final = returncode in set(Exit) and Exit(returncode).is_permanent
        why = self.why or f"its process ended {_how(returncode)}"
        said = self.error or ("" if self.ready_since is not None else self.last_line)
        if said and not is_final:
            why += f" (it said: {said})"
        return _Life(why=why, is_final=is_final, healthy_s=healthy_s)


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"with exit code {returncode}"
    return f"by signal {signal.Signals(-returncode).name}"


async def _live_once(
    launch: Launch, socket: str, on_state: Callable[[EmbeddedState], None]
) -> _Life:
    """Run one child from its start to its end."""
    record = _Record(launch.model_name, _Progress(sys.stderr))

    def hear(line: str) -> None:
        state = record.hear(line)
        if isinstance(state, Ready):
            record.ready_since = trio.current_time()
            log.info("the embedded model %s is ready", state.model)
        if state is not None:
            on_state(state)

    on_state(Starting())
    try:
        async with _child(launch, socket) as process:
            assert process.stdout is not None  # noqa: S101 - we asked for pipes
            assert process.stderr is not None  # noqa: S101
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_each_line, process.stderr, record.hear_log)
                await _each_line(process.stdout, hear)
            returncode = await process.wait()
    except OSError as error:
        return _Life(why=f"its process cannot be started: {error}")
    return record.life(returncode, now=trio.current_time())


@asynccontextmanager
async def _child(launch: Launch, socket: str) -> AsyncIterator[trio.Process]:
    """One child process, ended and reaped on leaving."""
    process = await trio.lowlevel.open_process(
        launch.arguments(socket),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Ctrl-C goes to the whole foreground group, and draining needs the model.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await _end(process, launch.grace_s)


async def _end(process: trio.Process, grace_s: float) -> None:
    process.terminate()
    with trio.move_on_after(grace_s):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            await pipe.aclose()


async def _each_line(stream: trio.abc.ReceiveStream, take: Callable[[str], None]) -> None:
    """Give each line of `stream` to `take`, cut to a length that a log can bear."""
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            take(line[:_LINE_BYTES].decode(errors="replace"))
        rest = rest[:_LINE_BYTES]
    if rest:
        take(rest.decode(errors="replace"))


def _runtime_dir() -> str | None:
    """Where this user's sockets belong; None: among the temporary files."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return directory if directory and os.access(directory, os.W_OK | os.X_OK) else None


@attrs.define
class _Progress:
    """Shows how far the default model is: a line that changes for people, a few for logs."""

    screen: TextIO
    _logged: int = -_QUARTER

    def show(self, done_bytes: int, total_bytes: int) -> None:
        """Show a new amount."""
        percent = 100 * done_bytes // max(1, total_bytes)
        text = f"putting the default model together: {percent} % of {total_bytes / 1e6:.0f} MB"
        if self.screen.isatty():
            self.screen.write(f"\r{text}" + ("\n" if done_bytes >= total_bytes else ""))
            self.screen.flush()
        elif percent >= self._logged + _QUARTER:
            self._logged = percent - percent % _QUARTER
            log.info("%s", text)
