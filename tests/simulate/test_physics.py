"""How warm a part becomes."""

import pytest

from ollama_proxy.simulate.physics import Body, PartConfig


def test_a_framework_13_under_full_load() -> None:
    """28.2 W make 94 °C, as was recorded of it; most of the way takes the heat sink's time."""
    body = Body(PartConfig(name="package"))
    body.draw(28.2, 33.0)
    soon_c = body.degrees_c
    for _ in range(600):
        body.draw(28.2, 1.0)

    assert 25 + 28.2 * (0.95 + 1.5 * 0.632) == pytest.approx(soon_c, abs=0.1)
    assert 94 == pytest.approx(body.degrees_c, abs=0.2)


def test_it_does_not_matter_how_often_it_is_computed() -> None:
    """Two half steps are a whole one."""
    once, twice = Body(PartConfig(name="nvidia")), Body(PartConfig(name="nvidia"))
    once.draw(20, 10)
    twice.draw(20, 5)
    twice.draw(20, 5)

    assert once.degrees_c == pytest.approx(twice.degrees_c)


def test_at_its_limit_it_is_held_until_it_draws_less() -> None:
    """The firmware does so, and says it."""
    body = Body(PartConfig(name="package", limit_c=90))
    body.draw(60, 300)
    held_c, was_throttled = body.degrees_c, body.is_throttled
    body.draw(5, 10)

    assert 90 == pytest.approx(held_c)
    assert was_throttled > body.is_throttled
    assert body.degrees_c < 80
