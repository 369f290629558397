"""How an attempt may end, what that is called, and what a caller is told where nothing comes after it."""

import attrs

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Fault,
    ModelMissing,
    Served,
)
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.job import Job
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.refusal import Code, Refusal

# For how long a node that says it is full is left alone, whatever it says. No caller is told to stay away
# for longer on a node's word: by then it is asked again, or another serves.
FULL_LEAST_S = 1.0
FULL_MOST_S = 60.0


@attrs.frozen
class CallerGone:
    """How an attempt ends when its caller has left."""


@attrs.frozen
class CallerStalled:
    """How an attempt ends when its caller takes nothing of the answer for too long."""


@attrs.frozen
class RouterFaulted:
    """How an attempt ends when the router itself made a mistake."""


@attrs.frozen
class RouterStopped:
    """How an attempt ends when the router cannot wait for it any longer."""


@attrs.frozen
class DeadlinePassed:
    """How an attempt ends when the job's deadline came first."""


@attrs.frozen
class PutBack:
    """How an attempt ends when a more urgent job took its slot."""


@attrs.frozen
class Beaten:
    """How an attempt ends when another at the same job was faster, or the job is over."""


Ending = (
    Served
    | BackendFailed
    | CallUnserved
    | ModelMissing
    | CallRejected
    | CallerGone
    | CallerStalled
    | RouterFaulted
    | RouterStopped
    | DeadlinePassed
    | PutBack
    | Beaten
)


def in_a_word(ending: Ending) -> str:
    """How an attempt ended: `served`, or what went wrong."""
    if isinstance(ending, BackendFailed):
        return ending.fault.value
    return _ENDINGS[type(ending)]


_ENDINGS: dict[type[Ending], str] = {
    Served: "served",
    CallUnserved: "call_unserved",
    ModelMissing: "model_missing",
    CallRejected: "rejected",
    CallerGone: "caller_left",
    CallerStalled: "caller_stalled",
    RouterFaulted: "internal",
    RouterStopped: "shutting_down",
    DeadlinePassed: "deadline_exceeded",
    PutBack: "preempted",
    Beaten: "beaten",
}


def may_linger(attempt: Attempt, ending: Ending) -> bool:
    """Whether a backend may still compute what nobody waits for any more.

    Closing the connection ends a stream that has begun; a prefill and a whole answer are computed to
    their end by many a server.
    """
    is_cut = isinstance(ending, CallerGone | DeadlinePassed | PutBack | Beaten | RouterStopped) or (
        isinstance(ending, BackendFailed) and ending.fault is Fault.SILENT
    )
    return is_cut and not (attempt.answered and attempt.job.ask.stream)


def failed(station: Station, failure: BackendFailed) -> Refusal:
    """What is told where a backend failed, and there is no other."""
    if failure.fault in {Fault.FULL, Fault.DECLINED}:
        after_s = failure.retry_after_s
        return Refusal(
            failure.code or Code.QUEUE_FULL,
            f"{station.spec.id}: {failure}",
            retry_after_s=None if after_s is None else min(after_s, FULL_MOST_S),
        )
    message = f"Backend {station.spec.id} failed: {failure}."
    if failure.status == 429:  # noqa: PLR2004 - RFC 6585: too many requests
        return Refusal(Code.QUEUE_FULL, message, retry_after_s=5.0)
    if failure.fault is Fault.SILENT:
        return Refusal(Code.DEADLINE_EXCEEDED, message)
    return Refusal(Code.BACKEND_FAILED, message)


def unserved(station: Station, job: Job) -> Refusal:
    """What is told where a backend turned out not to know the call."""
    return Refusal(
        Code.NO_BACKEND,
        f"Backend {station.spec.id} does not serve {job.ask.call.path}, and there is no other for"
        f" {job.ask.model!r}.",
        retry_after_s=5.0,
    )


def missing(job: Job) -> Refusal:
    """What is told where no backend has the model after all."""
    return Refusal(
        Code.MODEL_NOT_FOUND, f"model {job.ask.model!r} not found on any backend.", param="model"
    )


def too_late(job: Job) -> Refusal:
    """What is told when the deadline has passed."""
    what = "first token" if job.ask.stream else "whole answer"
    limit_ms = (job.wishes.max_latency_s or 0.0) * 1000
    return Refusal(Code.DEADLINE_EXCEEDED, f"The {what} was not there within {limit_ms:g} ms.")


def unread(job: Job) -> Refusal:
    """What is told who did not take their answer."""
    return Refusal(
        Code.REQUEST_TIMEOUT, f"Nothing of the answer was taken for {job.stall_timeout_s:g} s."
    )
