"""The dashboard in a real browser: a router on a recorded laptop, with four backends and their traffic."""

import base64
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import httpx
import pytest

from tests.fakes.machine import recorded
from tests.real.browsers import Browser, Page, browsing
from tests.real.parts import require
from tests.real.processes import ROOT, running

LAPTOP = "framework16-amd-rx7700s"
AXE = ROOT / "build" / "node" / "node_modules" / "axe-core" / "axe.min.js"
PICTURES = ROOT / "build" / "dashboard"
MODEL = "fake:latest"
WIDE, PHONE = (1360, 900), (390, 844)
PAGE_MAX_BYTES = 200 * 1024
EVIL = "<img src=x onerror=\"window.evil='yes'\"><b>bold</b>"
# Watts, milliseconds to the first token, slots.
FOUR = {
    "npu": (3.0, 800, 1),
    "igpu": (12.0, 400, 2),
    "nvidia": (55.0, 150, 4),
    "cpu": (28.0, 2000, 1),
}
CONFIG = """\
[server]
http_port = 0
grpc = false
[efficiency]
mode = "auto"
quiet_hours = ""
[dbus]
enabled = false
[router]
health_interval_s = 0.5
[sensors]
sysfs_root = "{machine}/sys"
procfs_root = "{machine}/proc"
system_bus = ""
"""
BACKEND = """
[[backends]]
id = "ollama-{name}"
name = "Ollama {name}"
hardware = "{name}"
endpoint = "{url}"
slots = {slots}
[backends.characteristics]
power_watts = {watts}
avg_latency_ms = {latency_ms}
"""
# What tests ask the page: until something is so, for five seconds.
SOON = """
const soon = async isSo => {
  for (let tries = 0; tries < 100; tries += 1) {
    const found = isSo();
    if (found) return found;
    await new Promise(resolve => setTimeout(resolve, 50));
  }
  throw new Error(`it never came: ${isSo}`);
};
const text = selector => document.querySelector(selector)?.textContent ?? '';
const card = name => [...document.querySelectorAll('.card')].find(
  each => each.querySelector('h3').textContent === name);
"""


@attrs.frozen
class Desk:
    """A router, what is behind it, and who looks at it.

    Attributes:
        url: the router's.
        fakes: by hardware.
    """

    browser: Browser
    url: str
    fakes: dict[str, str]

    def ask(self, text: str = "hi", model: str = MODEL, **headers: str) -> httpx.Response:
        """A chat, streamed, taken whole."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(
            f"{self.url}/api/chat", json=body, headers=named, timeout=60, trust_env=False
        )

    def script(self, fake: str, **fields: object) -> None:
        """Have a backend behave otherwise."""
        answer = httpx.post(f"{self.fakes[fake]}/fake/script", json=fields, trust_env=False)
        answer.raise_for_status()

    @contextmanager
    def page(
        self,
        size: tuple[int, int] = WIDE,
        theme: str = "light",
        script: str = "",
        *,
        is_let_in: bool = True,
    ) -> Iterator[Page]:
        """The dashboard, after a script; nothing may have been complained of once this ends."""
        with self.browser.page("about:blank") as page:
            _call(page, "Runtime.enable")
            _call(page, "Log.enable")
            _call(
                page,
                "Emulation.setDeviceMetricsOverride",
                width=size[0],
                height=size[1],
                deviceScaleFactor=1,
                mobile=size == PHONE,
            )
            _call(
                page,
                "Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": theme}],
            )
            if script:
                _call(page, "Page.addScriptToEvaluateOnNewDocument", source=script)
            _call(page, "Page.navigate", url=self.url)
            page.event("Page.loadEventFired")
            if is_let_in:
                page.run(
                    f"{SOON} await soon(() => text('#line') === 'Live' && card('Ollama npu'));"
                )
            yield page
            assert [] == _complaints(page)


def _call(page: Page, method: str, **params: Any) -> dict[str, Any]:
    return page.browser.call(method, page.session, **params)


def _complaints(page: Page) -> list[str]:
    """What the browser's console has of the page, but for what a test asked to be refused."""
    page.run("")  # what was told before is heard by then
    found = []
    for told in page.browser.told(page.session):
        params = told["params"]
        if told["method"] == "Runtime.exceptionThrown":
            found.append(json.dumps(params["exceptionDetails"]))
        elif told["method"] == "Log.entryAdded" and params["entry"]["source"] != "network":
            found.append(params["entry"]["text"])
        elif told["method"] == "Runtime.consoleAPICalled" and params["type"] in {
            "error",
            "warning",
        }:
            found.append(json.dumps(params["args"]))
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    home = tmp_path_factory.mktemp("desk")
    recorded(LAPTOP).unpack(home / "machine")
    with browsing() as browser, ExitStack() as stack:
        fakes = {}
        written = CONFIG.format(machine=home / "machine")
        for name, (watts, latency_ms, slots) in FOUR.items():
            place = tmp_path_factory.mktemp(name)
            command = [str(ROOT / "tools" / "fake-ollama"), "--interval-s", "0.01"]
            command += ["--tokens", "12", "--first-token-s", str(latency_ms / 10_000)]
            url = stack.enter_context(running(command, place))
            fakes[name] = url
            written += BACKEND.format(
                name=name, url=url, watts=watts, latency_ms=latency_ms, slots=slots
            )
        (home / "config.toml").write_text(written)
        url = stack.enter_context(running(["-m", "ollama_proxy", "serve"], home))
        yield Desk(browser, url, fakes)


@contextmanager
def traffic(desk: Desk, pause_s: float = 0.15) -> Iterator[None]:
    """Requests of all kinds, until this ends."""
    over = threading.Event()
    wishes: list[dict[str, str]] = [
        {},
        {"X_Latency_Critical": "true"},
        {"X_Power_Efficient": "true"},
        {"X_Priority": "high"},
        {"X_Priority": "best-effort", "X_Target_Backend": "cpu"},
        {"X_Target_Backend": "igpu"},
        {"X_Max_Latency_Ms": "0.5"},
    ]

    def run(each: Iterator[dict[str, str]]) -> None:
        while not over.wait(pause_s):
            desk.ask(**next(each))

    threads = [
        threading.Thread(target=run, args=(itertools.cycle(wishes[n:] + wishes[:n]),))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_cards_show_what_happens(desk: Desk) -> None:
    """A request that is answered shows in its backend's card and among the requests, with its reason."""
    with desk.page() as page:
        answer = desk.ask(X_Target_Backend="npu", X_Request_ID="seen")
        assert 200 == answer.status_code
        row = page.run(f"""{SOON}
            return await soon(() => {{
              const cells = [...document.querySelectorAll('#flow tr:first-child td')];
              return text('#flow tr:first-child').includes('served')
                && cells.map(cell => cell.textContent);
            }});
        """)
        told = page.run(f"""{SOON}
            return (await soon(() => card('Ollama npu').textContent.includes('learned')
              && card('Ollama npu'))).innerText;
        """)

    assert [MODEL, "Ollama npu"] == row[1:3]
    assert ("explicit-target", "normal", "12", "served") == (row[3], row[4], row[8], row[10])
    assert "healthy" in told
    assert "0 of 1 in flight" in told


def test_a_backend_that_is_down_says_why(desk: Desk) -> None:
    """With its error as text, whatever it holds; the page says so in its first line."""
    desk.script("igpu", behaviour="refuse", message=EVIL, misbehaves_at=["*"])
    try:
        with desk.page() as page:
            told = page.run(f"""{SOON}
                await soon(() => card('Ollama igpu').dataset.health === 'unhealthy');
                return [text('#status'), card('Ollama igpu').querySelector('.fault').textContent];
            """)
    finally:
        httpx.post(f"{desk.fakes['igpu']}/fake/reset", trust_env=False).raise_for_status()

    assert "3 of 4 backends are well" == told[0]
    assert told[1]
    with desk.page() as page:
        page.run(f"{SOON} await soon(() => text('#status') === 'All 4 backends are well');")


def test_markup_in_names_is_text(desk: Desk) -> None:
    """A model that is called like an element is shown by its name, and nothing of it runs."""
    with desk.page() as page:
        desk.ask(model=EVIL, X_Target_Backend="npu")
        told = page.run(f"""{SOON}
            const cell = await soon(() => [...document.querySelectorAll('#flow td')].find(
              each => each.textContent.includes('<img')));
            return [cell.textContent, document.querySelectorAll('#flow img, #flow b').length,
              window.evil ?? null];
        """)

    assert [EVIL, 0, None] == told


def test_the_mode_switch_reaches_the_router(desk: Desk) -> None:
    """And whoever switches it elsewhere is seen here."""
    mode = f"{desk.url}/efficiency"
    with desk.page() as page:
        page.run(f"""{SOON}
            (await soon(() => document.querySelector('[name=mode][value=quiet]'))).click();
            await soon(() => text('#mode-why').startsWith('Keeps parts cool'));
        """)
        assert "quiet" == httpx.get(mode, trust_env=False).json()["mode"]
        httpx.post(mode, json={"mode": "auto"}, trust_env=False).raise_for_status()
        page.run(
            f"{SOON} await soon(() => document.querySelector('[name=mode]:checked').value === 'auto');"
        )


def test_a_choice_is_explained(desk: Desk) -> None:
    """Every backend with its terms, or with why it cannot; a refusal with its sentence."""
    with desk.page() as page:
        told = page.run(f"""{SOON}
            const form = document.querySelector('#explain');
            form.elements.model.value = '{MODEL}';
            form.elements.watts.value = '20';
            form.requestSubmit();
            const rows = await soon(() => text('.verdict') && document.querySelectorAll('.weighed tbody tr'));
            return [text('.verdict'), [...rows].map(row => row.innerText)];
        """)
        refused = page.run(f"""{SOON}
            const form = document.querySelector('#explain');
            form.elements.watts.value = '0.1';
            form.requestSubmit();
            return (await soon(() => document.querySelector('#explained .fault'))).textContent;
        """)

    verdict, rows = told
    assert verdict.startswith("To Ollama ")
    assert 4 == len(rows)
    assert 2 == sum("over 20 W" in row for row in rows)
    assert refused.startswith("Refused (503): ")


def test_a_hidden_page_is_told_nothing(desk: Desk) -> None:
    """It gives its seat back, and takes up where it was once it is seen again."""
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    hide += "document.dispatchEvent(new Event('visibilitychange'));"
    with desk.page() as page:
        page.run(f"{SOON} {hide % 'true'} await soon(() => text('#line') === 'Paused');")
        desk.ask(X_Target_Backend="npu")
        assert "Paused" == page.run(f"{SOON} return text('#line');")
        page.run(f"""{SOON}
            const count = document.querySelectorAll('#flow tr').length;
            {hide % "false"}
            await soon(() => text('#line') === 'Live'
              && text('#flow tr:first-child').includes('explicit-target'));
        """)


GUARD = """
const real = window.fetch;
window.asked = [];
window.fetch = async (path, {headers, ...others} = {}) => {
  window.asked.push(headers?.Authorization ?? null);
  return headers?.Authorization === 'Bearer sesame' ? real(path, {headers, ...others})
    : headers?.Authorization === 'Bearer weak'
    ? new Response(JSON.stringify({error: {message: 'no', code: 'permission_denied'}}), {status: 403})
    : new Response(JSON.stringify({error: {message: 'An API key is needed.'}}), {status: 401});
};
"""


def test_a_key_is_asked_for(desk: Desk) -> None:
    """Where one is needed; it goes into a header, and no further than this tab's session."""
    with desk.page(
        script=f"if (location.protocol !== 'about:') {{ {GUARD} }}", is_let_in=False
    ) as page:
        told = page.run(f"""{SOON}
            const dialog = await soon(() => document.querySelector('dialog[open]'));
            const titles = [text('#key-title')];
            const use = async key => {{
              document.querySelector('#key-text').value = key;
              dialog.querySelector('[value=use]').click();
            }};
            await use('wrong');
            await soon(() => window.asked.includes('Bearer wrong') && dialog.open);
            titles.push(text('#key-title'));
            await use('weak');
            await soon(() => window.asked.includes('Bearer weak') && dialog.open);
            titles.push(text('#key-title'), getComputedStyle(document.querySelector('#flow-none')).visibility);
            await use('sesame');
            await soon(() => text('#line') === 'Live' && card('Ollama npu'));
            document.querySelector('#key-open').click();
            titles.push(text('#key-title'));
            return [titles, Object.values(sessionStorage), Object.values(localStorage).includes('sesame'),
              location.href + document.cookie + document.querySelector('#key-text').value];
        """)

    assert [
        "A key is needed",
        "This key is not known here",
        "This key may not read",
        "hidden",  # that there was no request: nobody knows that yet
        "Use another key",
    ] == told[0]
    assert (["sesame"], False, f"{desk.url}/") == tuple(told[1:])


SPENT = """
const real = window.fetch;
window.fetch = async (path, ...others) => {
  if (path !== '/events') return real(path, ...others);
  const answer = await real(path, ...others);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let heard = '';
  while (!/data: .*\\n\\n/.test(heard)) heard += (await reader.read()).value;
  await reader.cancel();
  const told = JSON.parse(heard.split('data: ')[1].split('\\n\\n')[0]);
  told.today.backends = {
    'ollama-npu': {tokens: 40},
    'ollama-igpu': {tokens: 40, estimated: 4.86},
    'ollama-cpu': {tokens: 60, apportioned: 2000, estimated: 160},
  };
  const made = `event: snapshot\\ndata: ${JSON.stringify(told)}\\n\\n`;
  return new Response(new TextEncoder().encode(made), {status: 200});
};
"""


def test_what_is_old_says_so(desk: Desk) -> None:
    """That all is well is no news once nothing is heard any more; once it is, it is."""
    script = """
    const real = window.fetch;
    let heard = 0;
    window.fetch = async (path, options) => {
      if (path !== '/events' || heard++ > 1) return real(path, options);
      if (heard === 2) throw new TypeError('nobody is there');
      const answer = await real(path, options);
      const reader = answer.body.getReader();
      const stream = new ReadableStream({start: async to => {
        to.enqueue((await reader.read()).value);
        setTimeout(() => { to.close(); reader.cancel(); }, 300);
      }});
      return new Response(stream, {status: 200});
    };
    """
    with desk.page(script=f"if (location.protocol !== 'about:') {{ {script} }}") as page:
        told = page.run(f"""{SOON}
            const note = () => getComputedStyle(document.querySelector('#status'), '::after').content;
            const before = note();
            await soon(() => note().includes('as last heard') && card('Ollama npu'));
            await soon(() => text('#line') === 'Live');
            return [before, note()];
        """)

    assert ["none", "none"] == told


def test_what_was_spent_can_be_compared(desk: Desk) -> None:
    """A column has one unit; what no battery has told yet says so."""
    script = f"if (location.protocol !== 'about:') {{ {SPENT} }}"
    with desk.page(script=script, is_let_in=False) as page:
        rows = page.run(f"""{SOON}
            await soon(() => document.querySelectorAll('#energy tbody tr').length === 4);
            return [...document.querySelectorAll('#energy tbody tr')].map(row =>
              [...row.querySelectorAll('td')].slice(0, 5).map(cell => cell.textContent.replace('\u00a0', ' ')));
        """)

    assert [
        ["–", "not read yet", "40", "–", "–"],  # noqa: RUF001 - as it is shown
        ["0.0014 Wh", "estimated", "40", "0.12 J", "0.03 Wh"],
        ["0.6 Wh", "apportioned, estimated", "60", "36 J", "10 Wh"],
        ["0.6 Wh", "", "100", "21.6 J", "6.01 Wh"],
    ] == rows


def test_the_page_is_small(desk: Desk) -> None:
    """All of it, uncompressed, and nothing from elsewhere."""
    with desk.page() as page:
        urls: list[str] = page.run(
            "return performance.getEntriesByType('resource').map(each => each.name);"
        )
    files = {url for url in urls if "/dashboard/" in url}

    assert all(url.startswith(desk.url) for url in urls)
    assert len(files) >= 12
    sizes = [len(httpx.get(url, trust_env=False).content) for url in files]
    page_size = len(httpx.get(desk.url, headers={"Accept": "text/html"}, trust_env=False).content)
    assert sum(sizes) + page_size <= PAGE_MAX_BYTES


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_everybody_can_use_it(desk: Desk, theme: str, size: tuple[int, int]) -> None:
    """Nothing serious is found by axe, nothing is wider than the screen; it is pictured for people to judge."""
    require(AXE.exists(), "axe-core is not installed: tools/node-parts")
    with traffic(desk), desk.page(size, theme) as page:
        page.run(f"""{SOON}
            await soon(() => document.querySelectorAll('#flow tr').length > 12);
            document.querySelector('#explain').requestSubmit();
            await soon(() => document.querySelector('.weighed'));
        """)
        _picture(page, f"{'phone' if size == PHONE else 'wide'}-{theme}")
        page.run(AXE.read_text())
        found = page.run("""
            const told = await axe.run(document, {resultTypes: ['violations']});
            return told.violations.map(each => [each.impact, each.id,
              each.nodes.map(node => node.html.slice(0, 120) + ' ' + node.any.map(a => a.message))]);
        """)
        width = page.run("return document.documentElement.scrollWidth;")

    assert [] == [each for each in found if each[0] in {"serious", "critical"}]
    assert width <= size[0]


AN_HOUR = """
const real = window.fetch;
window.fetch = async (path, ...others) => {
  if (path !== '/events') return real(path, ...others);
  const answer = await real(path, ...others);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let heard = '';
  while (!/data: .*\\n\\n/.test(heard)) heard += (await reader.read()).value;
  await reader.cancel();
  const told = JSON.parse(heard.split('data: ')[1].split('\\n\\n')[0]);
  told.hour = HOUR(told);
  const made = `event: snapshot\\ndata: ${JSON.stringify(told)}\\n\\n`;
  const stream = new ReadableStream({start: to => to.enqueue(new TextEncoder().encode(made))});
  return new Response(stream, {status: 200});
};
const HOUR = ({now, order}) => {
  const at = Array.from({length: 360}, (_, n) => now - 3600 + 10 * (n + 1));
  const wave = (low, high, slow, from = 0) => at.map((_, n) => n < from ? null
    : low + (high - low) * (0.5 + 0.4 * Math.sin(n / slow) + 0.1 * Math.sin(n * 1.7)));
  const each = make => Object.fromEntries(order.map((id, n) => [id, make(n)]));
  return {
    at, battery_percent: wave(40, 80, 200),
    temperature_c: {package: wave(48, 84, 60), '0000:03:00.0': wave(40, 71, 45, 80)},
    watts: {battery: wave(11, 62, 50), 'amdgpu 0000:03:00.0': wave(1, 44, 48)},
    spent_watts: each(n => wave(0.2, [2.6, 8, 36, 18][n], 30 + 9 * n)),
    first_ms: each(n => wave(120 * (n + 1), 260 * (n + 1), 25 + 7 * n).map((v, i) => i % (n + 2) ? null : v)),
    waiting: each(n => wave(0, n + 2, 20 + 6 * n).map(Math.floor)),
  };
};
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_hour_is_drawn(desk: Desk, theme: str) -> None:
    """Four charts, a line of a colour of its own for each that is told of."""
    script = f"if (location.protocol !== 'about:') {{ {AN_HOUR} }}"
    with desk.page(theme=theme, script=script) as page:
        told = page.run(f"""{SOON}
            await soon(() => document.querySelectorAll('.chart canvas').length === 4);
            await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve, 50)));
            return [...document.querySelectorAll('.chart')].map(chart => {{
              const canvas = chart.querySelector('canvas');
              const {{data}} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              const seen = new Set();
              for (let at = 0; at < data.length; at += 4) {{
                seen.add(`rgb(${{data[at]}}, ${{data[at + 1]}}, ${{data[at + 2]}})`);
              }}
              const colours = [...chart.querySelectorAll('.legend i')].map(
                each => getComputedStyle(each).backgroundColor);
              return [colours.length, colours.filter(each => seen.has(each)).length];
            }});
        """)
        _picture(page, f"hour-{theme}")

    assert [[6, 6], [2, 2], [4, 4], [4, 4]] == told


def _picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    taken = _call(page, "Page.captureScreenshot", captureBeyondViewport=True)
    (PICTURES / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))
