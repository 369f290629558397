"""What is wrong with a certificate's files, in the words that their owner gets."""

import shutil
import subprocess
import time
from pathlib import Path

import attrs
import pytest

from ollama_proxy.certificates import (
    HTTP1,
    HTTP2,
    BadCertificate,
    CertificateFiles,
    server_contexts,
    worries,
)
from tests.papers import Papers
from tests.real.parts import require

DAMAGED = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


def faults_of(files: CertificateFiles) -> dict[str, str]:
    """Every fault, by its key."""
    with pytest.raises(BadCertificate) as caught:
        server_contexts(files)
    return dict(caught.value.faults)


def worries_about(files: CertificateFiles) -> dict[str, str]:
    """Every worry about good files, by its key."""
    server_contexts(files)
    return dict(worries(files, time.time()))


def test_good_files_are_good(papers: Papers) -> None:
    """There is something to encrypt with for each protocol, and nothing to worry about."""
    assert {HTTP1, HTTP2} == server_contexts(papers.files).keys()
    assert {} == worries_about(papers.mutual())


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """All at once, whatever is there in its place."""
    missing = str(tmp_path / "missing.pem")
    found = faults_of(CertificateFiles(missing, str(tmp_path), missing))

    assert {
        "cert_file": f"cannot read {missing}: No such file or directory",
        "key_file": f"cannot read {tmp_path}: it is not a file",
        "client_ca_file": f"cannot read {missing}: No such file or directory",
    } == found


def test_files_that_hold_something_else(papers: Papers) -> None:
    """The usual one: the two are exchanged."""
    given = papers.files
    found = faults_of(CertificateFiles(given.key_file, given.cert_file, given.key_file))

    assert {
        "cert_file": f"there is no certificate in {given.key_file}; PEM is expected",
        "key_file": f"there is no private key in {given.cert_file}; PEM is expected",
        "client_ca_file": f"there is no certificate in {given.key_file}; PEM is expected",
    } == found


def test_a_key_that_does_not_fit(papers: Papers) -> None:
    """It is said which is not whose."""
    other = papers.issue("other").key_file
    found = faults_of(attrs.evolve(papers.files, key_file=other))

    assert {"key_file": f"{other} is not the key of {papers.files.cert_file}"} == found


@pytest.mark.parametrize("key", ["cert_file", "client_ca_file"])
def test_a_damaged_file(papers: Papers, tmp_path: Path, key: str) -> None:
    """It is a fault, in words."""
    (tmp_path / "it.pem").write_text(DAMAGED)
    found = faults_of(attrs.evolve(papers.mutual(), **{key: str(tmp_path / "it.pem")}))

    assert {key} == found.keys()
    assert "_ssl" not in found[key]


def test_a_key_with_a_passphrase(papers: Papers, tmp_path: Path) -> None:
    """Nobody is asked for it at the terminal."""
    require(shutil.which("openssl") is not None, "openssl is not installed")
    locked = str(tmp_path / "locked.pem")
    key = ["openssl", "pkey", "-in", papers.files.key_file, "-aes256", "-passout", "pass:x"]
    subprocess.run([*key, "-out", locked], check=True)
    found = faults_of(attrs.evolve(papers.files, key_file=locked))

    assert "has a passphrase" in found["key_file"]


@pytest.mark.parametrize(("days", "why"), [((-9, -1), "has expired"), ((1, 9), "is not valid yet")])
def test_a_certificate_out_of_its_time(papers: Papers, days: tuple[int, int], why: str) -> None:
    """The server serves with it; its owner is told what clients will do."""
    files = papers.issue("stale", days=days)

    assert {"cert_file": f"{files.cert_file} {why}; clients will refuse it"} == worries_about(files)


@pytest.mark.parametrize(("days", "is_told"), [((-30, 1), True), ((-1, 1), False)])
def test_a_certificate_that_expires_soon(
    papers: Papers, days: tuple[int, int], is_told: bool
) -> None:
    """Its owner is told while there is time; soon is another time where it lives for days only."""
    files = papers.issue("old", days=days)

    assert is_told == ("expires on 2" in worries_about(files).get("cert_file", ""))


def test_a_key_that_everybody_can_read(papers: Papers) -> None:
    """Its owner is told what to do."""
    Path(papers.files.key_file).chmod(0o644)

    found = worries_about(papers.files)
    assert "everybody on this machine can read" in found["key_file"]


def test_the_stamp_tells_of_a_change(papers: Papers) -> None:
    """Of a file that was written anew, and of one that is gone."""
    stamps = [papers.files.stamp()]
    papers.issue("server")
    stamps.append(papers.files.stamp())
    Path(papers.files.key_file).unlink()
    stamps.append(papers.files.stamp())

    assert 3 == len(set(stamps))
