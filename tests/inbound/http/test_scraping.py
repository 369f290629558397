"""GET /metrics."""

import pytest
import trio

from tests.fakes.asgi import fetch
from tests.fakes.backend import ScriptedBackend
from tests.fleet import spec
from tests.inbound.http.house import open_house
from tests.metrics.scrapes import read

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,*/*;q=0.8", TEXT),
        ("text/plain", TEXT),
        (PROMETHEUS, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; version=0.0.1", OPENMETRICS),
        ("application/openmetrics-text;version=none.of.them", OPENMETRICS),
        ("application/openmetrics-text;q=0.1,text/plain", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=x;;,=,", TEXT),
    ],
)
async def test_the_scraper_chooses_the_form(
    nursery: trio.Nursery, accept: str, content_type: str
) -> None:
    """Text unless OpenMetrics is named, and not after text; nothing that it says comes back."""
    house = open_house(nursery, ScriptedBackend(spec("npu")))

    answer = await fetch(house.app, "GET", "/metrics", accept=accept)

    assert (200, content_type) == (answer.status, answer.headers["content-type"])
    told = read(answer.content, is_openmetrics=content_type == OPENMETRICS)
    assert {("npu", "npu"): 1} == told.by("backend_up")


async def test_a_router_that_drains_is_scraped(nursery: trio.Nursery) -> None:
    """Its last requests are counted, too."""
    house = open_house(nursery, ScriptedBackend(spec("npu")))
    house.dispatcher.drain()

    assert 200 == (await fetch(house.app, "GET", "/metrics")).status


async def test_no_page_of_another_origin_reads_them(nursery: trio.Nursery) -> None:
    """Which models somebody uses is nobody else's business."""
    house = open_house(nursery, ScriptedBackend(spec("npu")))

    answer = await fetch(house.app, "GET", "/metrics", origin="https://evil.example")

    assert 403 == answer.status
