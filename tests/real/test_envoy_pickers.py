"""Pickers that die, freeze and come back behind a real Envoy: no request fails by it, and none hangs."""

import signal
import ssl
from pathlib import Path

import trio
import trustme

from ollama_proxy.keyring import make_key
from tests.real.envoys import ask, chat, configured, stage
from tests.real.loads import load
from tests.real.programs import LIMIT_S
from tests.routers import CHAT

PACE = ["--interval-s", "0.01"]


async def test_a_picker_that_is_killed_under_load_costs_nothing(tmp_path: Path) -> None:
    """Without one the least busy node serves; once it is back it chooses again."""
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", "b", script=PACE) as stage_,
            load(stage_.envoy) as outcome,
        ):
            (picker,) = stage_.pickers
            await outcome.more(20)
            await picker.end(signal.SIGKILL)
            await outcome.more(20)
            await picker.begin()
            await stage_.envoy.well("pickers", 1)
            chosen = outcome.chosen
            await outcome.more(20)
        assert {} == outcome.failed
        assert outcome.chosen > chosen
        assert outcome.whole > outcome.chosen


async def test_a_picker_that_freezes_holds_nobody_for_long(tmp_path: Path) -> None:
    """It is known by its silence, and what waits for it goes on without."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a") as stage_, stage_.envoy.client() as client:
            stage_.pickers[0].send(signal.SIGSTOP)
            with trio.fail_after(8):
                assert 200 == (await ask(client)).status_code
            stage_.pickers[0].send(signal.SIGCONT)


async def test_the_second_picker_takes_over_under_load(tmp_path: Path) -> None:
    """When the first is killed no request fails, and they are still chosen for."""
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", "b", pickers=2, script=PACE) as stage_,
            load(stage_.envoy) as outcome,
        ):
            await outcome.more(20)
            await stage_.pickers[0].end(signal.SIGKILL)
            await stage_.envoy.well("pickers", 1)
            whole, chosen = outcome.whole, outcome.chosen
            await outcome.more(30)
        assert {} == outcome.failed
        # Those that were under way at the other's end may have gone on without.
        assert outcome.whole - whole - 12 <= outcome.chosen - chosen


async def test_a_rolling_restart_of_both_pickers_under_load_costs_nothing(tmp_path: Path) -> None:
    """Each drains, ends and comes back, one after the other."""
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", "b", pickers=2, script=PACE) as stage_,
            load(stage_.envoy) as outcome,
        ):
            for picker in stage_.pickers:
                await outcome.more(10)
                await picker.end()
                await outcome.more(10)
                await picker.begin()
                await stage_.envoy.well("pickers", 2)
            await outcome.more(10)
        assert {} == outcome.failed


async def test_another_configuration_under_load_costs_nothing(tmp_path: Path) -> None:
    """Two nodes, then one, then two again."""
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", "b", script=PACE) as stage_,
            load(stage_.envoy) as outcome,
        ):
            (picker,) = stage_.pickers
            nodes = list(stage_.nodes.values())

            async def change(count: int) -> None:
                await outcome.more(20)
                await stage_.reload(configured(nodes[:count], picker.http_port, each="slots = 4"))
                await picker.until(lambda all_: count == len(all_))

            await change(1)
            await change(2)
            await outcome.more(20)
        assert {} == outcome.failed


async def test_where_keys_are_asked_for_nobody_passes_without_a_picker(tmp_path: Path) -> None:
    """503 for all who come, and what was begun is still answered to its end."""
    secret, entry = make_key("", ["infer", "read"])
    keys = f"[server.auth]\napi_keys = [{entry!r}]\n".replace("'", '"')
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", more=keys, key=secret, script=["--interval-s", "0.2"]) as stage_,
            stage_.envoy.client() as stranger,
            stage_.envoy.client(secret) as client,
        ):
            assert 401 == (await ask(stranger)).status_code
            async with client.stream("POST", CHAT, json=chat(stream=True)) as begun:
                await stage_.pickers[0].end(signal.SIGKILL)
                for each in (stranger, client):
                    answer = await ask(each)
                    assert 503 == answer.status_code, answer.text
                text = "".join([part async for part in begun.aiter_text()])
            assert text.rstrip().endswith("[DONE]")
            (seen,) = await stage_.nodes["a"].seen()
            assert "authorization" not in dict(seen["headers"])


async def test_all_of_it_is_encrypted_where_our_doors_are(tmp_path: Path) -> None:
    """Clients to Envoy, and Envoy to its pickers, with the one certificate."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    tls = '[server.tls]\ncert_file = "cert.pem"\nkey_file = "key.pem"\n'
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", more=tls, trust=trust) as stage_,
            stage_.envoy.client() as client,
        ):
            answer = await ask(client)
            assert 200 == answer.status_code, answer.text
            assert "a" == answer.headers["x-backend-used"]
            assert 200 == (await client.get("/v1/models")).status_code
