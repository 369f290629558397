"""An attempt by itself."""

import trio

from ollama_proxy.backends.backend import Errand
from ollama_proxy.engine.attempt import Attempt, Halt
from ollama_proxy.engine.job import Job
from ollama_proxy.policy.ask import Call, Wishes
from ollama_proxy.policy.route import Decision, Reason
from tests.engine.storm import Witness
from tests.fleet import MODEL, ask


def test_who_waits_in_no_scope_is_told_of_a_halt() -> None:
    """Once, with the first reason, like the scope."""
    call = Call.OPENAI_CHAT
    attempt = Attempt(
        job=Job(
            errand=Errand(call=call, model=MODEL, body=b"", stream=True),
            ask=ask(),
            wishes=Wishes(),
            caller=Witness(),
            request_id="1",
            door="test",
            arrived=0.0,
        ),
        decision=Decision(backend="npu", reason=Reason.BALANCED, candidates=()),
        started=0.0,
        ends=1.0,
        scope=trio.CancelScope(),
    )
    told: list[Halt | None] = []
    attempt.told = lambda halted: told.append(halted.halted)
    attempt.halt(Halt.PUT_BACK)
    attempt.halt(Halt.CALLER_LEFT)

    assert [Halt.PUT_BACK] == told
    assert attempt.scope.cancel_called
