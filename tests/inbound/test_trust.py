"""Whose requests are heard: by the host they name, and by the page they come from."""

import hypothesis
import pytest
from hypothesis import strategies

from ollama_proxy.inbound.trust import Gate, judge_page
from ollama_proxy.policy.refusal import Code

GATE = Gate(
    bound_host="192.168.7.7",
    allowed_hosts=["Router.Lan", "ai.example"],
    allowed_origins=["https://Friend.example", "http://other.example:3000/", "app://obsidian.md"],
)


class TestHosts:
    """The names that this router answers for."""

    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "localhost:",
            "app.localhost:1",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.8.9.10",
            "[::1]",
            "[::1]:8080",
            "[0:0:0:0:0:0:0:1]",
            "192.168.7.7",
            "192.168.7.7:8080",
            "router.lan",
            "ROUTER.LAN.:80",
            "ai.example",
        ],
    )
    def test_ours(self, host: str) -> None:
        """Loopback in every spelling, the bound address, what the owner lists; any port."""
        assert None is GATE.judge(host.encode(), None)

    @pytest.mark.parametrize(
        "host",
        [
            "",
            ":8080",
            ".",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost..",
            "evillocalhost",
            "evil-localhost",
            "xai.example",
            "sub.ai.example",
            "192.168.7.8",
            "0.0.0.0",  # noqa: S104 - not bound to
            "0.0.0.0:8080",
            "[::]",
            "127.1",
            "2130706433",
            "0x7f000001",
            "localhost@evil.example",
            "evil.example@localhost",
            "@localhost",
            "localhost/evil",
            "localhost?evil",
            "localhost#evil",
            "localhost\\evil",
            "localhost evil",
            "localhost,evil",
            "localhost:evil",
            "localhost:123456",
            "localhost:80:80",
            "[::1",
            "::1]",
            "[::1]evil",
            "[localhost]",
            "http://localhost",
            "caf\xe9",
            "\uff4cocalhost".encode().decode("latin-1"),
        ],
    )
    def test_not_ours(self, host: str) -> None:
        """Names that rebind, that only look like ours, that make no sense, that mean everybody."""
        refusal = GATE.judge(host.encode("latin-1"), None)

        assert refusal is not None
        assert (Code.FORBIDDEN, "Host") == (refusal.code, refusal.param)

    @pytest.mark.parametrize("bound", ["0.0.0.0", "::", ""])  # noqa: S104 - not bound to
    def test_who_is_bound_to_all_answers_for_no_more(self, bound: str) -> None:
        """That address is no name: the owner lists those that are."""
        refused = [
            Gate(bound_host=bound).judge(host, None) is not None
            for host in (b"0.0.0.0", b"[::]", b"evil.example", b"localhost")
        ]

        assert [True, True, True, False] == refused

    def test_many_spellings_are_judged_alike(self) -> None:
        """Also beyond those that are remembered."""
        gate = Gate(bound_host="127.0.0.1")

        judged = {gate.judge(b"localhost:%d" % port, None) for port in range(1, 200)}

        assert {None} == judged
        assert len(gate._known_good) <= 64

    def test_a_refused_one_stays_refused(self) -> None:
        """Asking again does not help."""
        assert None is not GATE.judge(b"evil.example", None)
        assert None is not GATE.judge(b"evil.example", None)

    @hypothesis.given(strategies.binary(max_size=20), strategies.binary(max_size=20))
    def test_any_bytes_are_judged(self, host: bytes, origin: bytes) -> None:
        """Nothing is raised."""
        GATE.judge(host, origin)
        GATE.judge(b"localhost", origin)


class TestOrigins:
    """The pages that may use the router."""

    @pytest.mark.parametrize(
        "origin",
        [
            "http://localhost:8080",
            "HTTP://LocalHost:8080",
            "https://localhost:8080",
            "https://friend.example",
            "https://FRIEND.example/",
            "http://other.example:3000",
            "app://obsidian.md",
        ],
    )
    def test_ours(self, origin: str) -> None:
        """Our own, and what the owner lists."""
        assert None is GATE.judge(b"localhost:8080", origin.encode())

    @pytest.mark.parametrize(
        "origin",
        [
            "",
            "null",
            "*",
            "http://localhost",
            "http://localhost:8081",
            "http://127.0.0.1:8080",
            "https://evil.example",
            "http://friend.example",
            "https://friend.example.evil.example",
            "https://friend.example:444",
            "https://evil.example, https://friend.example",
            "file://",
            "chrome-extension://abc",
        ],
    )
    def test_not_ours(self, origin: str) -> None:
        """Other pages, also those of other local servers, and pages without an origin."""
        refusal = GATE.judge(b"localhost:8080", origin.encode())

        assert refusal is not None
        assert (Code.FORBIDDEN, "Origin") == (refusal.code, refusal.param)

    @pytest.mark.parametrize(("scheme", "is_ours"), [("https", True), ("http", False)])
    def test_under_tls_a_plain_page_is_another(self, scheme: str, is_ours: bool) -> None:
        """Whoever is on the way may have written it."""
        gate = Gate(bound_host="127.0.0.1", is_encrypted=True)

        assert is_ours == (
            gate.judge(b"localhost:8443", f"{scheme}://localhost:8443".encode()) is None
        )

    def test_a_page_that_rebinds_its_name_is_not_its_own_origin(self) -> None:
        """The host is judged before what is the same as it."""
        refusal = GATE.judge(b"evil.example:8080", b"http://evil.example:8080")

        assert refusal is not None
        assert "Host" == refusal.param


class TestPages:
    """What a page sends without saying whose it is."""

    @pytest.mark.parametrize(
        "kind",
        [b"text/plain", b"Text/Plain;charset=UTF-8", b"multipart/form-data; boundary=x"],
    )
    def test_a_form_cannot_ask(self, kind: bytes) -> None:
        """Browsers send these to anybody, the old ones without an origin."""
        refusal = judge_page("POST", [(b"content-type", kind)])

        assert refusal is not None
        assert Code.UNSUPPORTED_MEDIA_TYPE is refusal.code
        assert "application/json" in refusal.message

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"content-type", b"application/json")],
            [(b"content-type", b"application/octet-stream")],
            [(b"content-type", b"application/x-www-form-urlencoded")],
            [(b"origin", b"https://friend.example"), (b"content-type", b"text/plain")],
            [(b"sec-fetch-site", b"same-origin")],
            [(b"sec-fetch-site", b"none")],
        ],
    )
    def test_others_can(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Curl's `-d`, which sends the third of a form's types: no form can write JSON in that."""
        assert None is judge_page("POST", headers)

    @pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
    def test_what_a_foreign_page_loads(self, method: str, site: bytes) -> None:
        """As a picture, a script, or a form: is not heard; so of another port of this machine."""
        refusal = judge_page(method, [(b"sec-fetch-site", site), (b"sec-fetch-mode", b"no-cors")])

        assert refusal is not None
        assert Code.FORBIDDEN is refusal.code

    @pytest.mark.parametrize(("method", "is_heard"), [("GET", True), ("POST", False)])
    def test_a_link_may_be_followed(self, method: str, is_heard: bool) -> None:
        """Nobody but the user sees what it leads to; a form is no link."""
        headers = [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate")]

        assert is_heard == (judge_page(method, headers) is None)
