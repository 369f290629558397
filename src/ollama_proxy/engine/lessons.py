"""What the end of an attempt, or of a job, teaches: of a backend's speed, and of what was promised."""

import math

from ollama_proxy.backends.backend import BackendFailed, Report, Served
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.job import Job
from ollama_proxy.engine.ledger import Deadline, Outcome
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.affinity import Affinity
from ollama_proxy.policy.estimate import Seen
from ollama_proxy.policy.route import RouteSettings, foresee

NO_REPORT = Report()


def learn(
    station: Station,
    attempt: Attempt,
    served: Served,
    now: float,
    *,
    affinity: Affinity,
    settings: RouteSettings,
) -> None:
    """An answer came: how fast it was, and that its beginning and its model are there now."""
    station.has_served(now)
    job = attempt.job
    is_answer = served.status < 400 and served.computed  # noqa: PLR2004 - an error is none
    if attempt.begun is None or not is_answer:
        return
    station.has_loaded(job.ask.model)
    if job.ask.prefix:
        affinity.note(job.ask.prefix, station.spec.id)
    told = served.report or NO_REPORT
    station.estimates.observe(
        job.ask,
        Seen(
            first_s=attempt.begun - attempt.started if job.ask.stream else None,
            whole_s=now - attempt.started,
            pieces=served.tokens,
            cold=attempt.cold,
            uncached=attempt.uncached,
            prompt_tokens=told.prompt_tokens,
            cached_tokens=told.cached_tokens,
            answer_tokens=told.answer_tokens,
            load_s=told.load_s,
            prefill_s=told.prefill_s,
            decode_s=told.decode_s,
        ),
        station.prior(job.ask),
        now=now,
    )
    station.learned()
    foresee(station.view(now), job.ask, settings, now)


def learn_decline(station: Station, attempt: Attempt, ending: BackendFailed, now: float) -> None:
    """A node foresees that it would be late: it knows its speed and its load better than we do.

    Else all that come before it tells anew would go there and be declined. Where the model must
    be loaded there, that is what takes so long; where not, its slots were taken meanwhile.
    """
    job = attempt.job
    if attempt.cold and ending.retry_after_s is not None:
        station.estimates.keep_waiting(
            job.ask, ending.retry_after_s / 2, station.prior(job.ask), now=now, cold=True
        )
        station.learned()
    elif station.others is not None:
        station.others.fill(station.spec.slots - len(station.running))


def learn_silence(station: Station, attempt: Attempt, now: float) -> None:
    """Nobody waits any more for an answer that had not begun."""
    if attempt.begun is None:
        station.estimates.keep_waiting(
            attempt.job.ask,
            now - attempt.started,
            station.prior(attempt.job.ask),
            now=now,
            cold=attempt.cold,
        )
        station.learned()


def fate_of_deadline(job: Job, outcome: Outcome, now: float) -> Deadline | None:
    """What became of a job's deadline; None where it had none."""
    if job.in_time:
        return Deadline.MET
    if job.deadline == math.inf:
        return None
    if job.ask.stream:
        is_met = job.begun is not None and job.begun <= job.deadline
    else:
        is_met = outcome is Outcome.SERVED and now <= job.deadline
    if is_met:
        return Deadline.MET
    if outcome is Outcome.LEFT:
        return Deadline.LEFT
    return Deadline.REFUSED if job.promised_s is None else Deadline.MISSED


def calibrate(
    station: Station, job: Job, outcome: Outcome, deadline: Deadline | None, now: float
) -> None:
    """Hold what was promised at a job's admission against what came of it."""
    if job.promised_s is None:
        return
    if outcome is Outcome.SERVED and job.begun is not None and not job.put_back:
        took_s = (job.begun if job.ask.stream else now) - job.arrived
        station.calibration.compare(job.promised_s, took_s, now)
    if deadline is not None:
        station.calibration.settle(met=deadline is Deadline.MET)
