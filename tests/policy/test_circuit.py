"""Whether a backend that failed lately is tried again."""

from ollama_proxy.policy.circuit import Circuit


def failed(times: int, now: float = 0.0, circuit: Circuit | None = None) -> Circuit:
    """A circuit after some failures in a row."""
    circuit = circuit or Circuit()
    for _ in range(times):
        circuit = circuit.failed(now, jitter=0.0)
    return circuit


def test_the_fifth_failure_opens() -> None:
    """Four failures in a row are borne, the fifth is not."""
    assert not failed(4).is_open(0.0)
    assert failed(5).is_open(0.0)


def test_a_success_between_starts_the_count_anew() -> None:
    """Only failures in a row count."""
    circuit = failed(4).succeeded(0.0)

    assert not failed(4, circuit=circuit).is_open(0.0)


def test_after_its_pause_one_attempt_is_let_through() -> None:
    """Half-open: one request at a time."""
    circuit = failed(5)

    assert circuit.is_open(4.99)
    assert not circuit.is_open(5.0)
    assert circuit.tried().is_open(5.0)


def test_a_failed_attempt_doubles_the_pause() -> None:
    """Each opening in a row lasts twice as long, up to five minutes."""
    circuit = failed(5)
    pauses = []
    now = circuit.retry_at
    for _ in range(8):
        circuit = circuit.tried().failed(now, jitter=0.0)
        pauses.append(circuit.retry_at - now)
        now = circuit.retry_at

    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_good_attempt_closes() -> None:
    """One success is enough."""
    assert not failed(5).tried().succeeded(5.0).is_open(5.0)


def test_an_attempt_whose_caller_left_proves_nothing() -> None:
    """Another may be made at once."""
    assert not failed(5).tried().released().is_open(5.0)


def test_a_server_that_was_down_is_tried_at_once() -> None:
    """With one request at a time, and the next pause is as long as it would have been."""
    circuit = failed(5).revived()

    assert not circuit.is_open(1.0)
    assert circuit.tried().is_open(1.0)
    assert 11.0 == circuit.tried().failed(1.0, jitter=0.0).retry_at
    assert Circuit() == Circuit().revived()


def test_late_failures_do_not_lengthen_the_pause() -> None:
    """Requests that were sent before the opening tell nothing new."""
    circuit = failed(5)

    assert failed(20, now=1.0, circuit=circuit).retry_at == circuit.retry_at


def test_jitter_spreads_the_attempts() -> None:
    """Many backends that failed together are not all tried together."""
    circuit = failed(4)

    assert (4.0, 6.0) == (
        circuit.failed(0.0, jitter=-1).retry_at,
        circuit.failed(0.0, jitter=1).retry_at,
    )


def test_the_share_of_failures_fades() -> None:
    """What failed half a minute ago counts half."""
    circuit = failed(1)

    assert (0.25, 0.125) == (circuit.failing(0.0), circuit.failing(30.0))
