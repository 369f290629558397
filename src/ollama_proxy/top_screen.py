"""The screen of `ollama-proxy top`, by textual.

Law: what is seen follows from `sight` and `fault` alone, in `_sync`; everything else changes these two.
"""

from collections import deque
from collections.abc import Iterable
from time import monotonic  # noqa: TID251 - textual runs on asyncio, where no Trio clock is
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList, Sparkline, Static
from textual.widgets.option_list import Option

from ollama_proxy.client import Unanswered
from ollama_proxy.shown import Answer
from ollama_proxy.terminal import Line, Tone, printable
from ollama_proxy.top import Sight, Watchable

EVERY_S = 1.0
KEPT = 300  # rates that are remembered
MARGIN = 3  # columns beside the text, for a scroll bar
STYLES = {
    Tone.PLAIN: "",
    Tone.STRONG: "bold",
    Tone.FAINT: "dim",
    Tone.GOOD: "green",
    Tone.WARN: "yellow",
    Tone.BAD: "red",
}
HELP = """\
m        choose the mode
up down  scroll; so do page up, page down, home and end
h ?      this help
q        leave

In parentheses stands what the configuration says and nobody has measured.
The line at the top is requests per second, the newest on the right.
A router that does not answer is asked again each second.
"""


def painted(lines: Iterable[Line]) -> Text:
    """Lines as rich has them."""
    text = Text()
    for line in lines:
        for each in line:
            text.append(each.text, STYLES[each.tone])
        text.append("\n")
    return text


class Modes(ModalScreen[str | None]):
    """Asks which mode is wanted; its result is a mode's name, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,m", "dismiss", "Back")]

    def __init__(self, told: Answer) -> None:
        super().__init__()
        self._told = told

    def compose(self) -> ComposeResult:
        """The modes, each with what it means."""
        yield OptionList(*[
            Option(Text(printable(f"{each['name']}  {each['description']}")))
            for each in self._told["modes"]
        ])

    def on_mount(self) -> None:
        """Begin at the one that holds."""
        names = [each["name"] for each in self._told["modes"]]
        if self._told["mode"] in names:
            self.query_one(OptionList).highlighted = names.index(self._told["mode"])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """One was chosen."""
        self.dismiss(self._told["modes"][event.option_index]["name"])


class Help(ModalScreen[None]):
    """Says which keys do what."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,h,question_mark,enter", "dismiss", "Back")
    ]

    def compose(self) -> ComposeResult:
        """The text."""
        yield Static(HELP, markup=False)


class Screen(App[None]):
    """A router as it goes on.

    Attributes:
        sight: what it told last.
        fault: why it has told nothing since; "" while it answers.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "choose_mode", "Mode"),
        Binding("h,question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]
    CSS = """
    #rate { height: 2; }
    #fault { color: $error; height: auto; display: none; }
    #all { height: auto; }
    .is-old #all { opacity: 50%; }
    Modes, Help { align: center middle; }
    Modes OptionList, Help Static { width: 76; max-width: 100%; height: auto; max-height: 100%;
                                    border: round $accent; padding: 0 1; background: $surface; }
    """

    def __init__(self, router: Watchable, url: str, every_s: float = EVERY_S) -> None:
        """Watch a router.

        Args:
            router: where to look.
            url: what it is called here.
            every_s: seconds from one answer to the next question.
        """
        super().__init__()
        self.title = f"ollama-proxy {printable(url)}"
        self.sight: Sight | None = None
        self.fault = ""
        self._router = router
        self._every_s = every_s
        self._seen_at = 0.0
        self._rates = deque([0.0] * 2, maxlen=KEPT)

    def compose(self) -> ComposeResult:
        """All that there is to see."""
        yield Sparkline(self._rates, id="rate")
        yield Static(id="fault", markup=False)
        with VerticalScroll():
            yield Static(id="all")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.look()

    async def on_unmount(self) -> None:
        """Look no more."""
        await self._router.aclose()

    @work
    async def look(self) -> None:
        """Look once, and again later: never two at a time, however slowly a router answers."""
        try:
            self._take(await self._router.look())
        except Unanswered as error:
            self.fault = str(error)
        self._sync()
        self.set_timer(self._every_s, self.look)

    def _take(self, sight: Sight) -> None:
        now, before = monotonic(), self.sight
        rate = None
        # A router that was begun anew counts from 0 again.
        if before is not None and not self.fault and sight.requests >= before.requests:
            rate = (sight.requests - before.requests) / max(now - self._seen_at, 0.001)
        self.sight, self.fault, self._seen_at = Sight(sight.told, rate), "", now
        self._rates.append(rate or 0.0)

    def on_resize(self, _event: Resize) -> None:
        """The tables fit anew."""
        self.call_after_refresh(self._sync)  # by then `size` is the new one

    def _sync(self) -> None:
        screen = self.screen_stack[0]
        fault = screen.query_one("#fault", Static)
        fault.display = bool(self.fault)
        fault.update(Text(printable(self.fault)))
        screen.set_class(bool(self.fault), "is-old")
        screen.query_one(Sparkline).data = list(self._rates)
        if self.sight is not None:
            lines = self.sight.show(max(self.size.width - MARGIN, 1))
            screen.query_one("#all", Static).update(painted(lines))

    def action_choose_mode(self) -> None:
        """Ask for a mode, as soon as it is known which there are."""
        if self.sight is not None:
            self.push_screen(Modes(self.sight.told["efficiency"]), self._chosen)

    def _chosen(self, name: str | None) -> None:
        if name is not None:
            self._change_mode(name)

    @work
    async def _change_mode(self, name: str) -> None:
        try:
            await self._router.set_mode(name)
            self._take(await self._router.look())
        except Unanswered as error:
            # Said apart: the next look that succeeds would wipe it from the line of faults.
            self.notify(printable(str(error)), severity="error", markup=False)
        self._sync()

    def action_help(self) -> None:
        """Say which keys do what."""
        self.push_screen(Help())
