"""The page at the root, its files, and the stream of what changes."""

import re

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.dashboard import read_assets
from ollama_proxy.inbound.live.audience import EVERY_S, SEATS, UNTAKEN
from tests.fakes.asgi import begin, fetch
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.http.house import House, open_house

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
LINK = re.compile(rb'(?:href|src)="(/dashboard/[^"]+)"')


def house(nursery: trio.Nursery) -> House:
    """One with a backend."""
    return open_house(nursery, ScriptedBackend(spec("npu")))


class TestRoot:
    """GET /."""

    @pytest.mark.parametrize("accept", [BROWSER, "text/html", "TEXT/HTML;charset=utf-8"])
    async def test_a_browser_is_shown_the_page(self, nursery: trio.Nursery, accept: str) -> None:
        """Where HTML is asked for by name."""
        answer = await fetch(house(nursery).app, "GET", "/", accept=accept)

        assert answer.headers["content-type"].startswith("text/html")
        assert answer.content.startswith(b"<!doctype html>")

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "", "text/html;q=0"])
    async def test_everybody_else_is_told_what_ollama_tells(
        self, nursery: trio.Nursery, accept: str
    ) -> None:
        """`*/*` is no wish for HTML; caches are told that it depends."""
        answer = await fetch(house(nursery).app, "GET", "/", accept=accept)

        assert b"Ollama is running" == answer.content
        assert "accept" == answer.headers["vary"]

    async def test_the_page_can_be_switched_off(self, nursery: trio.Nursery) -> None:
        """Then a browser is anybody, and there is nothing to watch."""
        app = open_house(nursery, is_shown=False).app
        page = await fetch(app, "GET", "/", accept=BROWSER)
        events = await fetch(app, "GET", "/events")
        file = await fetch(app, "GET", f"/dashboard/{read_assets().digest}/app.js")

        assert (b"Ollama is running", 404, 404) == (page.content, events.status, file.status)
        assert "observability.dashboard" in events.json["error"]["message"]


class TestFiles:
    """GET /dashboard/..."""

    async def test_all_that_the_page_names_is_there(self, nursery: trio.Nursery) -> None:
        """From here, to be kept for good, and of its own media type."""
        app = house(nursery).app
        page = await fetch(app, "GET", "/", accept=BROWSER)
        links = LINK.findall(page.content)

        assert len(links) >= 3
        for link in links:
            answer = await fetch(app, "GET", link.decode())
            assert (200, "public, max-age=31536000, immutable") == (
                answer.status,
                answer.headers["cache-control"],
            )
            assert "nosniff" == answer.headers["x-content-type-options"]

    async def test_nothing_is_from_elsewhere(self, nursery: trio.Nursery) -> None:
        """The page holds no script, no style, and names no other host."""
        page = (await fetch(house(nursery).app, "GET", "/", accept=BROWSER)).content

        assert [] == re.findall(rb'(?:href|src|action)="(?![/#])', page)
        assert [] == re.findall(rb"<style|<script(?! src=)| style=| on[a-z]+=", page)

    async def test_its_policy_is_strict(self, nursery: trio.Nursery) -> None:
        """Nothing but what is its own, in nobody's frame, and no address is given on."""
        headers = (await fetch(house(nursery).app, "GET", "/", accept=BROWSER)).headers
        policy = headers["content-security-policy"].split("; ")

        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in headers["content-security-policy"]
        assert ("no-referrer", "nosniff") == (
            headers["referrer-policy"],
            headers["x-content-type-options"],
        )

    async def test_what_is_known_is_not_sent_again(self, nursery: trio.Nursery) -> None:
        """The page is asked for each time, by its tag."""
        app = house(nursery).app
        first = await fetch(app, "GET", "/", accept=BROWSER)
        again = await fetch(app, "GET", "/", accept=BROWSER, if_none_match=first.headers["etag"])
        other = await fetch(app, "GET", "/", accept=BROWSER, if_none_match='"other"')

        assert ("no-cache", 304, b"", 200) == (
            first.headers["cache-control"],
            again.status,
            again.content,
            other.status,
        )

    @pytest.mark.parametrize(
        "path", ["/dashboard/0000/app.js", "/dashboard/{}/no.js", "/dashboard/{}/__init__.py"]
    )
    async def test_what_is_not_there_is_not_found(self, nursery: trio.Nursery, path: str) -> None:
        """Another version's files, and what is no part of the page."""
        path = path.format(read_assets().digest)

        assert 404 == (await fetch(house(nursery).app, "GET", path)).status


class TestEvents:
    """GET /events."""

    async def test_it_is_a_stream_of_events(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,  # noqa: ARG002 - the clock of this test
    ) -> None:
        """What there is, then a request that comes and goes."""
        home = open_house(nursery, ScriptedBackend(spec("npu")).say('{"text":"hello"}'))
        watching = begin(home.app, "GET", "/events")
        nursery.start_soon(watching.run)
        await watching.wait_for_pieces(1)
        await fetch(home.app, "POST", "/api/chat", json={"model": MODEL, "stream": False})
        await watching.wait_for_pieces(2)

        assert ("text/event-stream", "no-store") == (
            watching.headers["content-type"],
            watching.headers["cache-control"],
        )
        first, then = (piece for _, piece in watching.pieces[:2])
        assert b"event: snapshot\ndata: {" in first
        assert b'"outcome":"served"' in then

    async def test_who_leaves_gives_the_seat_back(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,  # noqa: ARG002 - the clock of this test
    ) -> None:
        """Whatever it was told meanwhile."""
        home = house(nursery)
        watching = begin(home.app, "GET", "/events")
        nursery.start_soon(watching.run)
        await watching.wait_for_pieces(1)
        assert 1 == home.audience.size
        watching.leave.set()
        await wait_all_tasks_blocked()

        assert 0 == home.audience.size

    async def test_who_stops_reading_gives_the_seat_back(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,  # noqa: ARG002 - the clock of this test
    ) -> None:
        """After some seconds of changes; how the connection is cut is the wire's business."""
        home = house(nursery)
        watching = begin(home.app, "GET", "/events")
        nursery.start_soon(watching.run)
        await watching.wait_for_pieces(1)
        watching.reading = trio.Event()
        for _ in range(UNTAKEN + 3):
            await fetch(home.app, "POST", "/api/chat", json={"model": "none"})
            await trio.sleep(EVERY_S)

        assert 0 == home.audience.size
        watching.reading.set()
        await wait_all_tasks_blocked()
        assert watching.ended

    async def test_the_last_id_resumes(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,  # noqa: ARG002 - the clock of this test
    ) -> None:
        """Whoever knows all of it is told nothing but what changes."""
        home = house(nursery)
        seat = home.audience.join()
        heard = (await anext(seat)).decode().split("id: ")[1].partition("\n")[0]
        again = begin(home.app, "GET", "/events", last_event_id=heard)
        nursery.start_soon(again.run)
        await again.wait_for_pieces(1)

        assert b"snapshot" not in again.content
        home.audience.leave(seat)

    async def test_too_many_are_told_to_come_later(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,  # noqa: ARG002 - the clock of this test
    ) -> None:
        """By 503."""
        home = house(nursery)
        seats = [home.audience.join() for _ in range(SEATS)]
        answer = await fetch(home.app, "GET", "/events")

        assert (503, "10") == (answer.status, answer.headers["retry-after"])
        for seat in seats:
            home.audience.leave(seat)

    async def test_a_head_takes_no_seat(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,  # noqa: ARG002 - the clock of this test
    ) -> None:
        """It says what would come."""
        home = house(nursery)
        answer = await fetch(home.app, "HEAD", "/events")

        assert ("text/event-stream", b"", 0) == (
            answer.headers["content-type"],
            answer.content,
            home.audience.size,
        )

    async def test_a_foreign_page_may_not_watch(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,  # noqa: ARG002 - the clock of this test
    ) -> None:
        """Its origin is judged as everywhere."""
        answer = await fetch(house(nursery).app, "GET", "/events", origin="https://evil.example")

        assert 403 == answer.status

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    async def test_a_foreign_page_takes_no_seat(self, nursery: trio.Nursery, site: str) -> None:
        """Nor as an image's address, with which a browser tells no origin."""
        home = house(nursery)
        answer = await fetch(home.app, "GET", "/events", sec_fetch_site=site)

        assert (403, 0) == (answer.status, home.audience.size)
