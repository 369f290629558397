"""How calls end."""

from ollama_proxy.inbound.answers import STATUS as HTTP_STATUS
from ollama_proxy.inbound.grpc.pb import status_pb2
from ollama_proxy.inbound.grpc.status import STATUS, Status, refused
from ollama_proxy.policy.refusal import Code, Refusal


def test_every_refusal_has_a_status() -> None:
    """The table is complete, as HTTP's is."""
    assert set(Code) == set(STATUS) == set(HTTP_STATUS)


def test_the_callers_faults_are_not_the_routers() -> None:
    """What HTTP answers with 4xx is none of the statuses that a client tries again by itself."""
    for code, status in HTTP_STATUS.items():
        assert (status < 500) <= (STATUS[code] not in {Status.UNAVAILABLE, Status.INTERNAL})


def test_a_refusal_is_told_to_people_and_machines() -> None:
    """The sentence, the code and the field at fault; code and message are the same in both."""
    ended = refused(Refusal(Code.QUEUE_FULL, "Füll.", param="model", retry_after_s=1.2))
    told = status_pb2.Status.FromString(ended.details)
    info = status_pb2.ErrorInfo.FromString(told.details[0].value)

    assert (Status.RESOURCE_EXHAUSTED, "Füll.") == (ended.status, ended.message)
    assert (ended.status, ended.message) == (told.code, told.message)
    assert "type.googleapis.com/google.rpc.ErrorInfo" == told.details[0].type_url
    assert ("queue_full", "ollama-proxy", {"param": "model"}) == (
        info.reason,
        info.domain,
        dict(info.metadata),
    )
    assert (("retry-after", "2"),) == ended.trailing
