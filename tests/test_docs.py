"""What the documentation lists is what there is: each table's words are held against the code."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import pytest
from documenting.reference import reference, sections

from ollama_proxy.cli import EXIT_CODES, new_parser
from ollama_proxy.completion import commands
from ollama_proxy.config import BackendConfig, Characteristics, Overrides, interpret
from ollama_proxy.engine.ledger import Deadline, Outcome
from ollama_proxy.inbound.answers import STATUS
from ollama_proxy.inbound.grpc.pb.ollama_proxy_pb2 import Annotations
from ollama_proxy.inbound.reading import _HEADERS_BY_WISH
from ollama_proxy.policy.access import ALL, NEEDS, OPEN, Permission
from ollama_proxy.policy.ask import WISH_NAMES, Priority
from ollama_proxy.policy.candidate import Terms
from ollama_proxy.policy.energy import Grade
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import STANCES, Mode
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.readings import Quality
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Reason
from ollama_proxy.policy.thermal import ThermalState
from tests.metrics.test_exposition import MORE, NAMES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def fences(language: str) -> Iterator[tuple[str, str]]:
    """All that is shown in a language: where it stands, and its text."""
    for page in PAGES:
        text = page.read_text()
        for fence in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, fence.start()) + 1
            yield f"{page.name}:{line}", fence[1]


def table(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with `first`, without its head."""
    rows: list[list[str]] = []
    inside = False
    for line in (DOCS / page).read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not inside:
            inside = cells[:1] == [first]
        elif not cells:
            break
        elif set(cells[0]) != {"-"}:
            rows.append(cells)
    assert rows, f"{page} has no table that begins with {first}"
    return rows


def words(page: str, first: str) -> list[str]:
    """What stands in the first column, without the marks of code."""
    return [row[0].strip("`") for row in table(page, first)]


@pytest.mark.parametrize(
    ("page", "first", "known"),
    [
        ("routing.md", "term", Terms._fields),
        ("routing.md", "reason", [each.value for each in Reason]),
        ("routing.md", "code", [each.value for each in Code]),
        ("modes.md", "mode", [each.value for each in Mode]),
        ("deadlines.md", "priority", [each.label for each in Priority]),
        ("deadlines.md", "`preempt_started`", [each.value for each in Started]),
        ("deadlines.md", "`outcome` of `deadline_total`", [each.value for each in Deadline]),
        ("sensors.md", "quality", [each.value for each in Quality]),
        ("energy.md", "grade", [each.value for each in Grade]),
        ("observing.md", "name", NAMES | MORE),
        ("observing.md", "`outcome`", [each.value for each in Outcome]),
        ("doors.md", "exit code", [str(code) for code in EXIT_CODES]),
    ],
)
def test_a_table_has_every_word_once(page: str, first: str, known: Iterable[str]) -> None:
    """None is missing, and none is made up."""
    assert sorted(known) == sorted(words(page, first))


def test_metrics_have_the_labels_that_are_told() -> None:
    """By name."""
    told = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1]))
        for row in table("observing.md", "name")
    }

    assert NAMES | MORE == told


def test_refusals_have_the_status_that_is_told() -> None:
    """HTTP's."""
    told = {row[0].strip("`"): int(row[1]) for row in table("routing.md", "code")}

    assert {code.value: status for code, status in STATUS.items()} == told


def test_modes_weigh_as_is_told() -> None:
    """Time and watts; what is kept to, in the last column."""
    for name, _, time, power, kept in table("modes.md", "mode"):
        mode = Mode(name.strip("`"))
        if mode is Mode.AUTO:
            continue
        stance = STANCES[mode]
        caps = [c for c in (stance.watts_soft_cap, stance.watts_soft_cap_when_loud) if c]
        assert (stance.time_weight, stance.power_weight) == (float(time), float(power))
        assert [f"{cap:g}" for cap in caps] == re.findall(r"(\d+) W", kept)


def test_priorities_have_the_numbers_that_are_told() -> None:
    """A caller may write either."""
    told = {row[0].strip("`"): int(row[1]) for row in table("deadlines.md", "priority")}

    assert {each.label: each.value for each in Priority} == told


def test_what_needs_which_permission_is_told() -> None:
    """Each call that is named, by method and path or by gRPC's name."""
    whose = {
        "`infer`": {Permission.INFER},
        "`read`": {Permission.READ},
        "`infer` or `read`": {Permission.INFER, Permission.READ},
        "`admin`": {Permission.ADMIN},
        "any": ALL,
        "no key": OPEN,
    }
    rows = {row[0]: row[1] for row in table("security.md", "permission")}

    assert whose.keys() == rows.keys()
    for who, what in rows.items():
        for name in re.findall(r"`([^`]+)`", what):
            keys = [name, f"GET {name}", f"POST {name}", f"/ollama_proxy.OllamaProxy/{name}"]
            assert whose[who] == next(NEEDS[key] for key in keys if key in NEEDS), name


def test_every_wish_is_told_for_each_door() -> None:
    """As header, as field, and as flag."""
    told = table("doors.md", "wish")
    flags = {each.name: each.flags for each in commands(new_parser())}
    headers = {row[2].strip("`"): row[1].strip("`") for row in told}

    assert {*WISH_NAMES} == headers.keys()
    assert headers == {wish: _HEADERS_BY_WISH[wish] for wish in WISH_NAMES}
    assert {row[3].strip("`") for row in told} <= set(Annotations.DESCRIPTOR.fields_by_name)
    for command in ("say", "route"):
        assert {row[4].strip("`") for row in told} <= set(flags[command])


def test_why_not_is_told_as_the_router_says_it() -> None:
    """Each begins a text of the decision's."""
    source = (ROOT / "src" / "ollama_proxy" / "policy" / "route.py").read_text()
    texts = re.findall(
        r'f?"((?:is|does|has|may|takes|failed|cannot|draws|predicted) [^"{]*)', source
    )
    begun = {
        re.split(r"[/'N.]", each, maxsplit=1)[0].strip()
        for each in words("troubleshooting.md", "why not")
    }

    assert begun == {text.strip() for text in texts}


def test_the_rooms_and_tests_are_where_is_told() -> None:
    """Architecture's paths, as long as nobody moves them."""
    rooms = words("architecture.md", "room")
    tests = [
        path
        for row in table("architecture.md", "level")
        for path in re.findall(r"`(tests/[^`]+)`", row[1])
    ]
    source = ROOT / "src" / "ollama_proxy"

    assert [] == [room for room in rooms if not list(source.glob(f"{room}*"))]
    assert [] == [path for path in tests if not (ROOT / path).exists()]


def test_the_dashboard_has_as_many_panels_as_is_told() -> None:
    """Grafana's."""
    panels = json.loads((DOCS / "grafana.json").read_text())["panels"]

    assert f" {len(panels)} panels " in (DOCS / "observing.md").read_text()


@pytest.mark.parametrize("page", ["modes.md", "start.md"])
def test_names_of_parts_are_known(page: str) -> None:
    """Grades of heat where heat is, kinds of hardware where backends are described."""
    text = (DOCS / page).read_text()
    known = ThermalState if page == "modes.md" else Hardware

    assert [] == [each for each in known if each.value not in text]


# -- the configuration -----------------------------------------------------------------------------


def test_the_reference_is_made_of_config_toml() -> None:
    """As it is now; where it is not, run tools/docs --renew."""
    made = reference((ROOT / "config.toml").read_text())

    assert made == (DOCS / "configuration.md").read_text()


def test_the_reference_shows_defaults_where_the_file_has_examples() -> None:
    """Those of the code, or that a key is required."""
    shown = {
        section.title: {key.name: key.default for key in section.keys}
        for section in sections((ROOT / "config.toml").read_text())
    }
    required = {f.name for f in attrs.fields(BackendConfig) if f.default is attrs.NOTHING}
    plain = BackendConfig(id="a", hardware=Hardware.CPU)
    told = shown["[[backends]]"]

    assert required == {name for name, default in told.items() if not default}
    assert (f'"{plain.type.value}"', f'"{plain.name}"') == (told["type"], told["name"])
    told = shown["[backends.characteristics]"]
    assert attrs.asdict(Characteristics()) == {name: float(told[name]) for name in told}


# -- what is shown ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [pytest.param(text, id=at) for at, text in fences("toml")])
def test_every_configuration_that_is_shown_is_good(shown: str) -> None:
    """By itself, each key known and each value allowed: a fault raises."""
    interpret(tomllib.loads(shown), environ={}, overrides=Overrides())


@pytest.mark.parametrize("shown", [pytest.param(text, id=at) for at, text in fences("sh")])
def test_every_command_that_is_shown_is_known(shown: str) -> None:
    """A shell understands it, and ours have that name and those flags."""
    known = {each.name: each.flags for each in commands(new_parser())}
    subprocess.run(["sh", "-n"], input=shown, text=True, check=True, capture_output=True)
    for line in shown.replace("\\\n", " ").splitlines():
        if not line.startswith("ollama-proxy "):
            continue
        _, command, *rest = shlex.split(line, comments=True)
        assert command in known
        assert [] == [word for word in rest if word[:2] == "--" and word not in known[command]]


def test_every_link_of_the_readme_leads_somewhere() -> None:
    """Those to files here; the site's own are its generator's to check."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / "README.md").read_text())

    assert [] == [link for link in links if not (ROOT / link).exists()]
