"""Every promise the configuration makes: what is accepted, what is a fault, in which words."""

import datetime as dt
import enum
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy import config as config_module
from ollama_proxy.config import (
    BackendConfig,
    Characteristics,
    Config,
    Dbus,
    Efficiency,
    Fleet,
    Loaded,
    Notifications,
    Observability,
    Overrides,
    Router,
    Scheduler,
    Sensors,
    Server,
    Thermal,
    Wyoming,
    find_config,
    interpret,
    load,
)
from ollama_proxy.policy.fleet import BackendSpec, BackendType
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.tables import Check, ConfigFaults, describe_faults
from tests.papers import Papers

REFERENCE = Path(__file__).parent.parent / "config.toml"
BACKEND = {"id": "a", "hardware": "cpu", "endpoint": "http://127.0.0.1:1"}


def read(toml: str = "", *, environ: dict[str, str] | None = None, **overrides: Any) -> Loaded:
    return interpret(
        tomllib.loads(toml),
        environ=environ or {},
        overrides=Overrides(**overrides),
        opens_doors=True,
    )


def faults(toml: str = "", *, environ: dict[str, str] | None = None, **overrides: Any) -> list[str]:
    """All faults of a text; none is a failure of the test."""
    with pytest.raises(ConfigFaults) as caught:
        read(toml, environ=environ, **overrides)
    return list(caught.value.faults)


def backend(*lines: str, **changes: str) -> str:
    """One complete backend in TOML; a change of "" leaves a line out."""
    given = {
        "id": '"a"',
        "type": '"ollama"',
        "hardware": '"cpu"',
        "endpoint": '"http://h:1"',
    } | changes
    return "\n".join(["[[backends]]", *(f"{k} = {v}" for k, v in given.items() if v), *lines, ""])


class TestReference:
    """`config.toml` in the repository."""

    def test_it_loads_without_faults_or_notes(self) -> None:
        """The reference is a good configuration that asks for nothing in vain."""
        loaded = load(REFERENCE, environ={}, overrides=Overrides())

        assert () == loaded.notes
        assert REFERENCE == loaded.path

    @pytest.mark.parametrize(
        ("section", "of"),
        [
            ("server", Server),
            ("router", Router),
            ("scheduler", Scheduler),
            ("efficiency", Efficiency),
            ("thermal", Thermal),
            ("sensors", Sensors),
            ("dbus", Dbus),
            ("notifications", Notifications),
            ("wyoming", Wyoming),
            ("observability", Observability),
            ("fleet", Fleet),
        ],
    )
    def test_it_holds_every_key_of_a_section_with_its_default(
        self, section: str, of: type[Any]
    ) -> None:
        """A section shows what a file without it would mean."""
        written = tomllib.loads(REFERENCE.read_text())[section]

        defaults = attrs.asdict(of(), value_serializer=lambda _, __, v: plain(v))
        assert defaults == written

    def test_its_sections_are_those_of_the_config_in_order(self) -> None:
        """No section is missing, and none is more than there is."""
        written = tomllib.loads(REFERENCE.read_text())

        assert [f.name for f in attrs.fields(Config)] == list(written)

    def test_its_first_backend_holds_every_key(self) -> None:
        """What a backend may have is shown once, in full."""
        first = tomllib.loads(REFERENCE.read_text())["backends"][0]

        assert [f.name for f in attrs.fields(BackendConfig)] == list(first)
        assert [f.name for f in attrs.fields(Characteristics)] == list(first["characteristics"])

    def test_its_first_backend_shows_the_defaults(self) -> None:
        """Of the keys that are not the example's own, the default is shown."""
        own = {"id", "type", "name", "hardware", "endpoint", "characteristics"}
        first = load(REFERENCE, environ={}, overrides=Overrides()).config.backends[0]

        plainest = BackendConfig(id="a", hardware=Hardware.CPU)
        for field in attrs.fields(BackendConfig):
            if field.name not in own:
                assert getattr(plainest, field.name) == getattr(first, field.name), field.name

    def test_it_names_the_defaults_of_the_characteristics(self) -> None:
        """The example's own figures are beside what holds without them."""
        lines = lines_by_key()

        for field in attrs.fields(Characteristics):
            assert str(field.default).removesuffix(".0") in lines[field.name], field.name

    def test_every_line_has_a_comment(self) -> None:
        """Each key is explained where it stands, by its first appearance."""
        silent = [key for key, line in lines_by_key().items() if "# " not in line]

        assert [] == silent

    @pytest.mark.parametrize(
        "of", [Server, Router, BackendConfig, Characteristics, Scheduler, Fleet]
    )
    def test_the_comments_give_the_ranges_that_are_checked(self, of: type[Any]) -> None:
        """A range in the reference is the range in the code."""
        lines = lines_by_key()

        for field in attrs.fields(of):
            if field.type in {int, float} and isinstance(field.validator, Check):
                assert field.validator.expected in lines[field.name], field.name

    def test_it_describes_four_backends(self) -> None:
        """The examples are the four kinds of hardware of one laptop."""
        loaded = load(REFERENCE, environ={}, overrides=Overrides())

        assert [
            (Hardware.NPU, "http://127.0.0.1:11434", 3.0, 0.8),
            (Hardware.IGPU, "http://127.0.0.1:11435", 12.0, 0.4),
            (Hardware.NVIDIA, "http://127.0.0.1:11436", 55.0, 0.15),
            (Hardware.CPU, "http://127.0.0.1:11437", 28.0, 2.0),
        ] == [
            (s.hardware, s.endpoint, s.power_watts, s.avg_latency_s)
            for s in (b.to_spec() for b in loaded.config.backends)
        ]


def plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def lines_by_key() -> dict[str, str]:
    """The reference's line for each key, the first where there are several."""
    lines: dict[str, str] = {}
    for line in REFERENCE.read_text().splitlines():
        key, equals, _ = line.partition(" = ")
        if equals and key.isidentifier():
            lines.setdefault(key, line)
    return lines


class TestGood:
    """What is accepted."""

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("nodes", '["http://box:8080", "https://[fd00::1]/", "http://box"]'),
            ("dns", '"nodes.example:8080"'),
            ("dns", '"[fd00::1]:8080"'),
            ("kubernetes", '"ai/router"'),
            ("kubernetes", '"ai/router:http"'),
            ("kubernetes", '"ai/router:8080"'),
        ],
    )
    def test_ways_to_find_nodes(self, key: str, value: str) -> None:
        """Each by itself makes a router look for others."""
        assert read(f"fleet.{key} = {value}").config.fleet.looks

    def test_who_can_be_reached_may_say_so(self) -> None:
        """An open door may be announced."""
        toml = 'server.host = "0.0.0.0"\nserver.insecure = true\nfleet.advertise = true'

        assert read(toml).config.fleet.advertise
        assert read("fleet.advertise = true").config.fleet.advertise  # to paired routers

    def test_nothing_is_the_defaults(self) -> None:
        """An empty file is a good one, without backends."""
        loaded = read()

        assert Loaded(config=Config()) == loaded

    def test_a_backend_becomes_a_spec(self) -> None:
        """Each key of a backend arrives in the words of the policy."""
        loaded = read(
            backend(
                'name = "A"',
                "enabled = false",
                "slots = 3",
                'api_key_env = "KEY"',
                'models = ["q*"]',
                'exclude = ["qx"]',
                'aliases = {"gpt" = "q"}',
                "max_prompt_tokens = 9",
                "characteristics = {power_watts = 4, avg_latency_ms = 250, priority = -2}",
                hardware='"igpu"',
            ),
            environ={"KEY": "k"},
        )

        assert (
            BackendSpec(
                id="a",
                type=BackendType.OLLAMA,
                hardware=Hardware.IGPU,
                endpoint="http://h:1",
                name="A",
                enabled=False,
                slots=3,
                slots_max=3,
                models=("q*",),
                exclude=("qx",),
                aliases={"gpt": "q"},
                max_prompt_tokens=9,
                power_watts=4.0,
                avg_latency_s=0.25,
                preference=-2,
                api_key_env="KEY",
            )
            == loaded.config.backends[0].to_spec()
        )

    def test_an_embedded_backend_needs_no_endpoint(self) -> None:
        """The router starts that server itself, so it knows where it is."""
        loaded = read(backend('model_path = "/m.gguf"', type='"embedded"', endpoint=""))

        assert "/m.gguf" == loaded.config.backends[0].to_spec().model_path

    @pytest.mark.parametrize(
        "endpoint",
        [
            "http://localhost:8000/v3",
            "https://api.example.com",
            "http://[::1]:8080/",
            "http://gpu_box.lan",
            "unix:/run/llama.sock",
            "unix:///run/llama.sock",
        ],
    )
    def test_an_endpoint_is_kept_as_written(self, endpoint: str) -> None:
        """TCP with or without port, TLS and base path, and Unix sockets are all endpoints."""
        loaded = read(backend(endpoint=f'"{endpoint}"'))

        assert endpoint == loaded.config.backends[0].endpoint

    def test_routing_is_another_name_for_router(self) -> None:
        """Files of the older spelling are read."""
        loaded = read("[routing]\npower_aware = false")

        assert Router(power_aware=False) == loaded.config.router

    def test_a_whole_number_will_do_for_a_fraction(self) -> None:
        """`drain_s = 5` is 5.0 seconds."""
        loaded = read("[server]\ndrain_s = 5")

        assert 5.0 == loaded.config.server.drain_s
        assert isinstance(loaded.config.server.drain_s, float)

    def test_an_id_may_be_its_own_hardware(self) -> None:
        """A target of that name means the same either way."""
        loaded = read(backend(id='"cpu"'))

        assert "cpu" == loaded.config.backends[0].id

    def test_an_open_door_may_be_asked_for(self) -> None:
        """A host that others can reach needs a second word, no more."""
        loaded = read('[server]\nhost = "0.0.0.0"\ninsecure = true')

        assert "0.0.0.0" == loaded.config.server.host  # noqa: S104 - compared with

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_loopback_is_no_open_door(self, host: str) -> None:
        """Only this machine can reach it, so nothing more is asked."""
        loaded = read(f'[server]\nhost = "{host}"')

        assert host == loaded.config.server.host

    def test_the_built_in_backends_are_good_ones(self) -> None:
        """What is used without a configuration would pass as one."""
        ollama = BackendConfig.local_ollama("http://127.0.0.1:11434").to_spec()
        embedded = BackendConfig.embedded().to_spec()

        assert (BackendType.OLLAMA, "http://127.0.0.1:11434") == (ollama.type, ollama.endpoint)
        assert (BackendType.EMBEDDED, "") == (embedded.type, embedded.endpoint)
        assert (False, True) == (ollama.continues_chat, embedded.continues_chat)


class TestOverrides:
    """Flags over environment over file."""

    ENVIRON = {  # noqa: RUF012 - read only
        "OLLAMA_PROXY_HOST": "::1",
        "OLLAMA_PROXY_HTTP_PORT": "1",
        "OLLAMA_PROXY_GRPC_PORT": "2",
        "OLLAMA_PROXY_LOG_LEVEL": "DEBUG",
    }
    FILE = '[server]\nhost = "localhost"\nhttp_port = 7\n[observability]\nlog_level = "error"'

    def test_the_environment_wins_over_the_file(self) -> None:
        """A variable replaces what the file says."""
        config = read(self.FILE, environ=self.ENVIRON).config

        assert ("::1", 1, 2, "debug") == (
            config.server.host,
            config.server.http_port,
            config.server.grpc_port,
            config.observability.log_level,
        )

    def test_flags_win_over_the_environment(self) -> None:
        """A flag replaces what a variable says, 0 included."""
        config = read(
            self.FILE,
            environ=self.ENVIRON,
            host="127.0.0.2",
            http_port=0,
            grpc_port=3,
            log_level="warning",
        ).config

        assert ("127.0.0.2", 0, 3, "warning") == (
            config.server.host,
            config.server.http_port,
            config.server.grpc_port,
            config.observability.log_level,
        )

    def test_an_empty_variable_says_nothing(self) -> None:
        """As is usual for variables, empty is the same as absent."""
        config = read(self.FILE, environ=dict.fromkeys(self.ENVIRON, "")).config

        assert 7 == config.server.http_port

    def test_a_fault_names_its_variable(self) -> None:
        """Who set a variable is not sent to look in the file."""
        found = faults(environ={"OLLAMA_PROXY_HTTP_PORT": "x", "OLLAMA_PROXY_LOG_LEVEL": "loud"})

        assert [
            'OLLAMA_PROXY_HTTP_PORT: must be a whole number (got "x")',
            'OLLAMA_PROXY_LOG_LEVEL: must be one of debug, info, warning, error (got "loud")',
        ] == found

    def test_a_fault_names_its_flag(self) -> None:
        """Nor is who gave a flag; an empty one is given, too."""
        found = faults(http_port=70000, host="")

        assert [
            '--host: must be an address or a host name without a port (got "")',
            "--http-port: must be 0 to 65535 (got 70000)",
        ] == found

    def test_an_open_door_by_flag_is_still_one(self) -> None:
        """Every way to name a host is held to the same rule."""
        (found,) = faults(host="0.0.0.0")  # noqa: S104 - refused

        assert found.startswith('--host: "0.0.0.0" can be reached from other machines')


class TestFaults:
    """What is refused, and how it is said."""

    @pytest.mark.parametrize(
        ("toml", "fault"),
        [
            ("server.http_prot = 1", "server.http_prot: unknown key, did you mean http_port?"),
            ("rooter = {}", "rooter: unknown key, did you mean router?"),
            ("thermall = {}", "thermall: unknown key, did you mean thermal?"),
            ("http_port = 1", "http_port: unknown key, did you mean server.http_port?"),
            ("server.rate_limits = 1", "server.rate_limits: unknown key, did you mean rate_limit?"),
            ("server.zzz = 1", "server.zzz: unknown key"),
            ('server."a b\\n" = 1', 'server."a b\\n": unknown key'),
            (
                "routing.power_awre = 1",
                "routing.power_awre: unknown key, did you mean power_aware?",
            ),
            ("server = 1", "server: must be a table (got 1)"),
            (
                "backends = {}",
                "backends: must be a list of tables, each headed [[...]] (got a table)",
            ),
            ("backends = [1]", "backends[0]: must be a table (got 1)"),
            ('server.http_port = "x"', 'server.http_port: must be a whole number (got "x")'),
            ("server.http_port = true", "server.http_port: must be a whole number (got true)"),
            ("server.http_port = 80.0", "server.http_port: must be a whole number (got 80.0)"),
            ("server.http_port = 65536", "server.http_port: must be 0 to 65535 (got 65536)"),
            (
                "server.http_port = 0xffffffffffffffffff",
                "server.http_port: must be a whole number (got a number beyond 64 bits)",
            ),
            ("server.drain_s = nan", "server.drain_s: must be a number (got nan)"),
            ("server.drain_s = inf", "server.drain_s: must be a number (got inf)"),
            ("server.drain_s = true", "server.drain_s: must be a number (got true)"),
            ("server.drain_s = 2020-01-01", "server.drain_s: must be a number (got 2020-01-01)"),
            (
                "server.head_timeout_s = 0",
                "server.head_timeout_s: must be > 0, at most 86400 (got 0)",
            ),
            ("server.grpc = 1", "server.grpc: must be true or false (got 1)"),
            (
                'server.host = "localhost:80"',
                (
                    "server.host: must be an address or a host name without a port"
                    ' (got "localhost:80")'
                ),
            ),
            ("server.host = 1", "server.host: must be text in quotes (got 1)"),
            (
                'server.allowed_hosts = "a"',
                'server.allowed_hosts: must be a list of texts (got "a")',
            ),
            (
                'server.allowed_hosts = ["a", 2]',
                "server.allowed_hosts[1]: must be text in quotes (got 2)",
            ),
            (
                'server.allowed_hosts = ["a", "b:1", "*"]',
                (
                    "server.allowed_hosts: must be addresses or host names without a port"
                    ' (got "b:1", "*")'
                ),
            ),
            (
                'server.allowed_origins = ["example.org"]',
                (
                    'server.allowed_origins: must be origins such as "https://example.org"'
                    ' (got "example.org")'
                ),
            ),
            (
                'scheduler.preempt_started = "later"',
                'scheduler.preempt_started: must be one of keep, stop, continue (got "later")',
            ),
            (
                'fleet.nodes = ["http://box:8080", "box", "unix:/run/x", "http://box/api"]',
                (
                    "fleet.nodes: must be http:// or https:// with a host, and a port if need be (for"
                    ' example "http://192.168.1.20:8080") (got "box", "unix:/run/x",'
                    ' "http://box/api")'
                ),
            ),
            (
                'fleet.nodes = ["http://user:secret@box:8080"]',
                (
                    "fleet.nodes: must be http:// or https:// with a host, and a port if need be (for"
                    ' example "http://192.168.1.20:8080")'
                ),
            ),
            (
                'fleet.dns = "nodes.example"',
                (
                    'fleet.dns: must be a name and a port such as "nodes.example:8080", or "" for'
                    ' none (got "nodes.example")'
                ),
            ),
            (
                'fleet.kubernetes = "service"',
                (
                    'fleet.kubernetes: must be "namespace/service" or "namespace/service:port", the'
                    ' port\'s name or number, or "" for none (got "service")'
                ),
            ),
            (
                'fleet.node_id = "mine and yours"',
                (
                    'fleet.node_id: must be at most 64 of A-Z a-z 0-9 . _ -, or "" for one that is'
                    ' derived from the machine\'s (got "mine and yours")'
                ),
            ),
            (
                "fleet.advertise = true\npairing.door = false",
                (
                    "fleet.advertise: needs a server.host that other machines can reach, and"
                    ' "127.0.0.1" is not, or pairing.door: it is what they would be told of'
                ),
            ),
            (
                'observability.log_format = "xml"',
                'observability.log_format: must be one of console, json (got "xml")',
            ),
            (
                "routing = {}\nrouter = {}",
                "routing: is another name for router; keep one of them",
            ),
            (
                'wyoming.host = "192.168.1.2"',
                'wyoming.host: must be a loopback address or localhost (got "192.168.1.2")',
            ),
            ("wyoming.port = 65536", "wyoming.port: must be 0 to 65535 (got 65536)"),
            (
                "wyoming.enabled = true",
                "wyoming.model: is required where the door is enabled: the model that answers",
            ),
            (
                'router.default_backend = "b"',
                'router.default_backend: must be the id of a backend: there is none (got "b")',
            ),
        ],
    )
    def test_of_a_key(self, toml: str, fault: str) -> None:
        """A fault names the key, what it must be, and what was there."""
        found = faults(toml)

        assert [fault] == found

    @pytest.mark.parametrize(
        ("toml", "fault"),
        [
            (backend(id=""), "backends[0].id: is required"),
            (backend(hardware=""), "backends[0].hardware: is required"),
            (backend(endpoint=""), 'backends[0].endpoint: is required unless type = "embedded"'),
            (
                backend(type='"embedded"'),
                (
                    'backends[0].endpoint: must be left out where type = "embedded": the router starts'
                    " that one itself"
                ),
            ),
            (
                backend('model_path = "/m"'),
                'backends[0].model_path: must be left out unless type = "embedded"',
            ),
            (
                backend(id='"A"'),
                (
                    "backends[0].id: must be a lower-case letter or digit, then at most 62 of"
                    ' a-z 0-9 . _ - (got "A")'
                ),
            ),
            (
                backend(id='"npu"'),
                (
                    'backends[0].id: "npu" is the name of a hardware, and this backend\'s is "cpu";'
                    " choose another, since X-Target-Backend takes either"
                ),
            ),
            (
                backend(type='"llama"'),
                'backends[0].type: must be one of ollama, openai, embedded, router (got "llama")',
            ),
            (backend("slots = 0"), "backends[0].slots: must be 1 to 1024 (got 0)"),
            (
                backend("max_prompt_tokens = -1"),
                "backends[0].max_prompt_tokens: must be >= 0 (got -1)",
            ),
            (
                backend("power_watts = 3"),
                "backends[0].power_watts: unknown key, did you mean characteristics.power_watts?",
            ),
            (
                backend("aliases = {a = 1}"),
                "backends[0].aliases.a: must be text in quotes (got 1)",
            ),
            (backend("aliases = []"), "backends[0].aliases: must be a table of texts (got a list)"),
            (
                backend('aliases = {a = ""}'),
                "backends[0].aliases: must be model names on both sides (got a table)",
            ),
            (
                backend("characteristics = {power_watts = -3}"),
                "backends[0].characteristics.power_watts: must be > 0 (got -3)",
            ),
            (
                backend() + backend(id='"b"') + backend(),
                'backends[2].id: "a" is already used by backends[0]',
            ),
            (
                backend() + '[router]\ndefault_backend = "b"',
                'router.default_backend: must be the id of a backend: "a" (got "b")',
            ),
        ],
    )
    def test_of_a_backend(self, toml: str, fault: str) -> None:
        """A fault of a backend says which one, by its place."""
        found = faults(toml)

        assert [fault] == found

    @pytest.mark.parametrize(
        "endpoint",
        [
            "localhost:11434",
            "ftp://h",
            "http://",
            "http://h:0",
            "http://h:99999",
            "http://h:x",
            "http://[::1",
            "http://user:pw@h",
            "http://h?a=b",
            "http://h#a",
            "http://h\\n",
            "http://a b",
            "unix:run/x",
            "unix:/",
            "unix:/" + "x" * 107,
        ],
    )
    def test_of_an_endpoint(self, endpoint: str) -> None:
        """What cannot be connected to, or would be called otherwise than written, is refused."""
        (found,) = faults(backend(endpoint=f'"{endpoint}"'))

        assert found.startswith("backends[0].endpoint: must be http:// or https:// with a host")

    @pytest.mark.parametrize(
        "toml",
        [
            backend('api_key_env = "sk-secret"'),
            backend(endpoint='"http://u:sk-secret@h"'),
            backend(endpoint='"http://h/?key=sk-secret"'),
        ],
    )
    def test_do_not_repeat_secrets(self, toml: str) -> None:
        """A key in the wrong place does not reach the log."""
        (found,) = faults(toml)

        assert "secret" not in found

    def test_do_not_repeat_at_length(self) -> None:
        """A long value is cut, and control characters do not reach the terminal."""
        (found,) = faults(f'server.host = "\\u001b{"x" * 1000}"')

        assert found.startswith("server.host: must be an address or a host name without a port")
        assert found.isprintable()
        assert len(found) < 200

    def test_are_told_all_at_once(self) -> None:
        """One reading finds the faults of every kind and place."""
        found = faults(
            'server = {host = "0.0.0.0", http_prot = 1, drain_s = -1, auth = {api_keys = ["k"]}}\n'
            + backend("slots = 0", 'device = ["x"]', id='"B"')
            + backend("characteristics = {power_watts = 0, avg_latency_ms = true}", endpoint="")
            + "[observability]\nlog_level = 3"
        )

        assert [
            "server.drain_s",
            "server.http_prot",
            "backends[0].id",
            "backends[0].slots",
            "backends[0].device",
            "backends[1].characteristics.power_watts",
            "backends[1].characteristics.avg_latency_ms",
            "observability.log_level",
            "backends[1].endpoint",
            "server.auth.api_keys[0]",
        ] == [fault.partition(": ")[0] for fault in found]

    def test_of_an_open_door_say_what_to_do(self) -> None:
        """A host that others can reach is a decision, not an accident."""
        (found,) = faults('[server]\nhost = "::"')

        assert (
            'server.host: "::" can be reached from other machines, and nobody is asked for a key; use'
            " 127.0.0.1, or name keys in server.auth.api_keys, or set server.insecure = true if"
            " whoever reaches it may use it"
        ) == found

    def test_are_one_line_if_there_is_one(self) -> None:
        """The command line says a single fault in a single line."""
        described = describe_faults(ConfigFaults(("a: b",), Path("c.toml")))

        assert "c.toml: a: b" == described

    def test_are_a_line_each_if_there_are_more(self) -> None:
        """Each line begins with its key, as other programs expect."""
        described = describe_faults(ConfigFaults(("a: b", "c: d"), Path("c.toml")))

        assert "c.toml: 2 faults\na: b\nc: d" == described


class TestNotes:
    """What its owner is told of a file that is good."""

    def test_a_key_variable_that_is_not_set_is_noted(self) -> None:
        """A backend that will answer 401 is foretold."""
        loaded = read(backend('api_key_env = "NO_SUCH_KEY"'))

        assert (
            "backends[0].api_key_env: NO_SUCH_KEY is not set, so requests go without a key",
        ) == loaded.notes


class TestCertificates:
    """What the doors encrypt with."""

    @staticmethod
    def write(directory: Path, toml: str, **keys: str) -> Path:
        """A file with [server.tls] last."""
        lines = [f'{key} = "{value}"' for key, value in keys.items()]
        path = directory / "c.toml"
        path.write_text("\n".join([toml, "[server.tls]", *lines]))
        return path

    def test_paths_start_where_the_configuration_is(self, tmp_path: Path) -> None:
        """Whoever reads it, from wherever."""
        path = self.write(tmp_path, "", cert_file="a.pem", key_file="/b.pem")
        tls = load(path, environ={}, overrides=Overrides()).config.server.tls

        assert (str(tmp_path / "a.pem"), "/b.pem", "") == attrs.astuple(tls)

    def test_their_faults_are_told_with_all_others(self, tmp_path: Path) -> None:
        """By whom the router is started; who only asks it need not be able to read them."""
        path = self.write(tmp_path, "[server]\nhttp_port = -1", cert_file="a", key_file="b")
        with pytest.raises(ConfigFaults) as caught:
            load(path, environ={}, overrides=Overrides(), opens_doors=True)
        with pytest.raises(ConfigFaults) as asked:
            load(path, environ={}, overrides=Overrides())

        assert [
            "server.http_port: must be 0 to 65535 (got -1)",
            f"server.tls.cert_file: cannot read {tmp_path / 'a'}: No such file or directory",
            f"server.tls.key_file: cannot read {tmp_path / 'b'}: No such file or directory",
        ] == list(caught.value.faults)
        assert caught.value.faults[:1] == asked.value.faults

    @pytest.mark.parametrize(
        ("key", "missing"),
        [
            ("cert_file", ["key_file"]),
            ("key_file", ["cert_file"]),
            ("client_ca_file", ["cert_file", "key_file"]),
        ],
    )
    def test_one_without_the_others_is_a_fault(self, key: str, missing: list[str]) -> None:
        """Nobody runs in plain text who has named a certificate."""
        message = "is required where another file of [server.tls] is named"

        assert [f"server.tls.{each}: {message}" for each in missing] == faults(
            f'[server.tls]\n{key} = "it.pem"'
        )

    def test_what_clients_will_mind_is_noted(self, tmp_path: Path) -> None:
        """The router runs all the same."""
        stale = Papers(tmp_path / "papers").issue("stale", days=(-2, -1))
        path = self.write(tmp_path, "", cert_file=stale.cert_file, key_file=stale.key_file)
        loaded = load(path, environ={}, overrides=Overrides(), opens_doors=True)

        assert (
            f"server.tls.cert_file: {stale.cert_file} has expired; clients will refuse it",
        ) == loaded.notes


class TestFiles:
    """What can be wrong before there is a key to speak of."""

    @staticmethod
    def fault_of(path: Path) -> str:
        """The one fault of a file."""
        with pytest.raises(ConfigFaults) as caught:
            load(path, environ={}, overrides=Overrides())
        assert path == caught.value.path
        (fault,) = caught.value.faults
        return fault

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"[server]\nhost = \n", "line 2, column 8: Invalid value"),
            (b"a = 1\na = 2\n", "line 2, column 6: Cannot overwrite a value"),
            (b"# \xff", "line 1: is not UTF-8"),
            (b"#\n\n# \xc3(", "line 3: is not UTF-8"),
            (b"a = " + b"[" * 50_000, "is nested too deeply"),
            (b"#" * (1 << 20) + b"#", "is larger than 1 MiB: hardly a configuration"),
        ],
        ids=["syntax", "twice", "latin-1", "latin-1 in line 3", "nested", "huge"],
    )
    def test_that_are_no_toml_say_where(self, tmp_path: Path, content: bytes, fault: str) -> None:
        """A text that cannot be read at all is one fault, with its line."""
        path = tmp_path / "c.toml"
        path.write_bytes(content)

        assert fault == self.fault_of(path)

    def test_with_a_number_of_thousands_of_digits_are_a_fault(self, tmp_path: Path) -> None:
        """What Python refuses to convert is a fault like others."""
        path = tmp_path / "c.toml"
        path.write_text("a = " + "9" * 5000)

        assert "" != self.fault_of(path)

    def test_that_are_directories_are_a_fault(self, tmp_path: Path) -> None:
        """A directory is not read as a file."""
        assert "cannot be read: Is a directory" == self.fault_of(tmp_path)

    def test_that_are_gone_are_a_fault(self, tmp_path: Path) -> None:
        """A file may vanish after it was found."""
        assert "cannot be read: No such file or directory" == self.fault_of(tmp_path / "c.toml")

    def test_that_cannot_be_opened_are_a_fault(self, tmp_path: Path) -> None:
        """A path that no system call takes is a fault like others (root may read everything)."""
        assert self.fault_of(tmp_path / "a\0b").startswith("cannot be read: ")

    def test_with_a_byte_order_mark_are_read(self, tmp_path: Path) -> None:
        """Some editors put one in front of UTF-8."""
        path = tmp_path / "c.toml"
        path.write_bytes(b"\xef\xbb\xbf[server]\nhttp_port = 1\n")

        loaded = load(path, environ={}, overrides=Overrides())

        assert 1 == loaded.config.server.http_port

    def test_may_be_absent(self) -> None:
        """Without a file the environment still counts."""
        loaded = load(None, environ={"OLLAMA_PROXY_HTTP_PORT": "1"}, overrides=Overrides())

        assert 1 == loaded.config.server.http_port
        assert loaded.path is None


class TestFinding:
    """Where the file is looked for."""

    @pytest.fixture
    def places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
        """One file in each place, the first in the order first."""
        named = {
            "flag": tmp_path / "flag.toml",
            "environ": tmp_path / "environ.toml",
            "cwd": tmp_path / "cwd" / "config.toml",
            "xdg": tmp_path / "xdg" / "ollama-proxy" / "config.toml",
            "system": tmp_path / "system.toml",
        }
        for path in named.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        monkeypatch.setattr(config_module, "SYSTEM_PATH", named["system"])
        return named

    def test_follows_the_order_of_the_contract(self, places: dict[str, Path]) -> None:
        """Each place is looked at when those before it have nothing."""
        root = places["flag"].parent
        environ = {"OLLAMA_PROXY_CONFIG": str(places["environ"]), "XDG_CONFIG_HOME": f"{root}/xdg"}
        found = [
            find_config(str(places["flag"]), environ, root / "cwd"),
            find_config(None, environ, root / "cwd"),
        ]
        del environ["OLLAMA_PROXY_CONFIG"]
        for place in ["cwd", "xdg", "system"]:
            found.append(find_config(None, environ, root / "cwd"))
            places[place].unlink()

        assert list(places.values()) == found
        assert find_config(None, environ, root / "cwd") is None

    @pytest.mark.parametrize("xdg", [{}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "rel"}])
    def test_falls_back_to_the_home_directory(self, tmp_path: Path, xdg: dict[str, str]) -> None:
        """Without an absolute XDG_CONFIG_HOME it is ~/.config."""
        path = tmp_path / ".config" / "ollama-proxy" / "config.toml"
        path.parent.mkdir(parents=True)
        path.touch()

        assert path == find_config(None, {"HOME": str(tmp_path)} | xdg, tmp_path)

    def test_starts_relative_paths_at_the_working_directory(self, tmp_path: Path) -> None:
        """A flag means what the shell would mean."""
        (tmp_path / "c.toml").touch()

        assert tmp_path / "c.toml" == find_config("c.toml", {}, tmp_path)

    @pytest.mark.parametrize(
        ("flag", "environ", "fault"),
        [
            ("c.toml", {}, "there is no such file"),
            ("", {}, "there is no such file"),
            (
                None,
                {"OLLAMA_PROXY_CONFIG": "c.toml"},
                "there is no such file (named by OLLAMA_PROXY_CONFIG)",
            ),
        ],
    )
    def test_faults_a_named_file_that_is_missing(
        self, tmp_path: Path, flag: str | None, environ: dict[str, str], fault: str
    ) -> None:
        """Who names a file does not want another one."""
        with pytest.raises(ConfigFaults) as caught:
            find_config(flag, environ, tmp_path)

        assert (fault,) == caught.value.faults


KEYS = sorted(
    {
        field.name
        for of in (Config, Server, Router, BackendConfig, Characteristics, Scheduler, Observability)
        for field in attrs.fields(of)
    }
    | {"routing", "dbus", "tls", "auth", "api_keys", "rate_limit", "preempt"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["a", "npu", "cpu", "ollama", "embedded", "http://h", "unix:/s", "::", "["])
    | st.dates()
    | st.datetimes(timezones=st.just(dt.UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=9), inner, max_size=6)
    ),
    max_leaves=20,
)
TABLES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
BACKENDS = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(["a", "b", "npu"]) | SCALARS, "hardware": VALUES},
        optional={f.name: VALUES for f in attrs.fields(BackendConfig) if f.name not in BACKEND},
    ),
    max_size=3,
)
FILES = st.fixed_dictionaries(
    {}, optional={f.name: TABLES | VALUES for f in attrs.fields(Config)} | {"backends": BACKENDS}
) | st.dictionaries(st.text(max_size=9) | st.sampled_from(KEYS), VALUES)


def outcome(tables: dict[str, Any], **environ: str) -> tuple[str, ...]:
    """The faults, if any; whatever else is raised is the test's failure."""
    try:
        interpret(tables, environ=environ, overrides=Overrides())
    except ConfigFaults as caught:
        return caught.faults
    return ()


class TestAnything:
    """Whatever is written down, the answer is a configuration or its faults."""

    @given(tables=FILES)
    def test_any_tables(self, tables: dict[str, Any]) -> None:
        """No content of a file raises anything but ConfigFaults, in lines fit to be shown."""
        found = outcome(tables)

        assert [] == [fault for fault in found if not fault.isprintable()]

    @given(value=VALUES, key=st.sampled_from([f.name for f in attrs.fields(BackendConfig)]))
    def test_any_value_in_a_good_backend(self, key: str, value: object) -> None:
        """One odd value in a good backend is a fault of that backend, or none."""
        found = outcome({"backends": [BACKEND | {key: value}]})

        assert [] == [fault for fault in found if not fault.startswith("backends[0].")]

    @given(text=st.text(st.sampled_from("\n[]{}=.\"'#\\ abz019-_\x00é")))
    def test_any_text(self, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        """No text of a file raises anything but ConfigFaults."""
        path = tmp_path_factory.getbasetemp() / "any.toml"
        path.write_text(text)

        try:
            loaded = load(path, environ={}, overrides=Overrides())
        except ConfigFaults as caught:
            loaded = Loaded(config=Config(), path=caught.path)

        assert path == loaded.path

    @given(host=st.text(max_size=9), port=st.text(max_size=9), level=st.text(max_size=9))
    def test_any_environment(self, host: str, port: str, level: str) -> None:
        """No variable raises anything but ConfigFaults, and each fault names its variable."""
        found = outcome(
            {},
            OLLAMA_PROXY_HOST=host,
            OLLAMA_PROXY_HTTP_PORT=port,
            OLLAMA_PROXY_LOG_LEVEL=level,
        )

        assert [] == [fault for fault in found if not fault.startswith("OLLAMA_PROXY_")]


class TestKeys:
    """Who is asked for a key, and for which."""

    ENTRY = "sha256:" + "ab" * 32

    def test_keys_are_read(self) -> None:
        """From the file, for whoever opens doors; their entries stay in no text of the configuration."""
        loaded = read(f'server.auth.api_keys = ["{self.ENTRY} read name=phone"]')

        assert [("phone", bytes.fromhex("ab" * 32))] == [(k.name, k.digest) for k in loaded.keys]
        assert "abab" not in repr(loaded)

    def test_who_only_asks_need_not_read_them(self) -> None:
        """`ollama-proxy status` finds the router though the file of keys is another user's."""
        tables = tomllib.loads('server.auth.api_keys = ["file:/nowhere/keys"]')

        loaded = interpret(tables, environ={}, overrides=Overrides())

        assert () == loaded.keys

    def test_a_variable_takes_the_place_of_the_file(self) -> None:
        """With keys themselves, too."""
        environ = {"OLLAMA_PROXY_API_KEYS": f"a-key-of-16-bytes-or-more,{self.ENTRY}"}

        loaded = read('server.auth.api_keys = ["file:/nowhere/keys"]', environ=environ)

        assert 2 == len(loaded.keys)
        assert "a-key-of-16" not in repr(loaded)

    @pytest.mark.parametrize("value", [",", " , ", "short", "sha256:00"])
    def test_a_variable_without_a_key_is_a_fault(self, value: str) -> None:
        """Nobody who sets it means to ask for none."""
        (found,) = faults(environ={"OLLAMA_PROXY_API_KEYS": value})

        assert found.startswith("OLLAMA_PROXY_API_KEYS[0]: must be")
        assert "short" not in found

    def test_an_empty_variable_asks_for_nothing(self) -> None:
        """It is the same as an absent one."""
        loaded = read(environ={"OLLAMA_PROXY_API_KEYS": ""})

        assert (Config(), ()) == (loaded.config, loaded.keys)

    @pytest.mark.parametrize(
        "auth",
        ['["pl4nted"]', '"pl4nted"', '[""]', "[7]", '{pl4nted = "x"}', '["file:/nowhere/keys"]'],
    )
    def test_what_is_none_is_a_fault(self, auth: str) -> None:
        """That does not repeat what may be a key in the wrong place."""
        found = faults(f"server.auth.api_keys = {auth}")

        assert 1 == len(found)
        assert found[0].startswith("server.auth.api_keys")
        assert "pl4nted" not in found[0]

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "router.lan"])  # noqa: S104 - as it is
    def test_an_open_door_needs_keys(self, host: str) -> None:
        """Or the word that says that it needs none."""
        door = f'[server]\nhost = "{host}"\n'

        assert ["server.host"] == [fault.partition(":")[0] for fault in faults(door)]
        assert ["server.host"] == [
            fault.partition(":")[0] for fault in faults(door + "auth.api_keys = []")
        ]
        assert host == read(f'{door}auth.api_keys = ["{self.ENTRY}"]').config.server.host
        assert host == read(door + "insecure = true").config.server.host

    @pytest.mark.parametrize(
        ("toml", "key"),
        [
            ("server.rate_limit.rate = -1", "server.rate_limit.rate"),
            ("server.rate_limit.burst = 0", "server.rate_limit.burst"),
            ('server.trusted_proxies = ["10.0.0.0/99"]', "server.trusted_proxies"),
            ('server.trusted_proxies = ["proxy.lan"]', "server.trusted_proxies"),
            ('server.auth.api_key = "misspelt"', "server.auth.api_key"),
        ],
    )
    def test_rates_and_proxies_are_checked(self, toml: str, key: str) -> None:
        """By themselves."""
        (found,) = faults(toml)

        assert found.startswith(key)
