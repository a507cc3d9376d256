"""Operators' keys in a file, https, and where a server refuses to listen."""

import os
import shlex
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from leyden.errors import BadConfig, BadInput, Conflict, Forbidden, NotFound
from leyden.key_file import KeyFile
from leyden.keys import ROLLOUT_KEY_S, Keys
from leyden.server.serve import serve


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "leyden.keys"


def again(file: Path) -> Keys:
    """Keys as a server has them that started now, or that looked at the file again."""
    return Keys(file=KeyFile(file))


def test_a_key_file_keeps_hashes_and_opens_what_each_role_allows(file: Path) -> None:
    made = {role: KeyFile(file).add(f"{role}-key", role) for role in ("read", "run", "train")}
    text = file.read_text()
    assert not any(key in text for key in made.values())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = again(file)
    allowed = {role: [w for w in ("read", "run", "train") if keys.open(key).allows(w)] for role, key in made.items()}
    assert allowed == {"read": ["read"], "run": ["read", "run"], "train": ["read", "run", "train"]}
    assert [(entry.name, entry.role) for entry in KeyFile(file).names()] == [
        ("read-key", "read"),
        ("run-key", "run"),
        ("train-key", "train"),
    ]


def test_a_name_is_given_once_and_a_revoked_key_opens_nothing(file: Path) -> None:
    old = KeyFile(file).add("ann", "train")
    with pytest.raises(Conflict, match="ann"):
        KeyFile(file).add("ann", "read")
    with pytest.raises(BadInput, match="no name"):
        KeyFile(file).add("two words", "read")
    KeyFile(file).add("ann-2", "train")
    KeyFile(file).revoke("ann")
    with pytest.raises(Forbidden, match="leyden keys add"):
        again(file).open(old)
    with pytest.raises(NotFound, match="ann"):
        KeyFile(file).revoke("ann")


def test_a_running_server_follows_the_file_and_keeps_what_was_right_of_a_broken_one(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = KeyFile(file).add("first", "read")
    monkeypatch.setattr("leyden.key_file._FRESH_S", 0.0)  # rather than to wait for a second
    keys = again(file)
    rollout = keys.rollout_key("a", 1)
    second = KeyFile(file).add("second", "run")
    assert keys.open(second).role == "run"
    KeyFile(file).revoke("first")
    with pytest.raises(Forbidden):
        keys.open(first)
    right = file.read_text()
    file.write_text("no key\n")
    assert (keys.open(second).role, keys.open(rollout).rollout_id) == ("run", "a")
    assert "line 1" in caplog.text
    file.unlink()
    assert keys.open(second).role == "run"
    assert "is gone" in caplog.text
    file.touch(mode=0o600)
    file.write_text(right)
    assert keys.open(second).role == "run"


def test_rollout_keys_outlive_a_rotation_until_they_expire_or_are_refused_at_once(file: Path) -> None:
    KeyFile(file).add("ann", "train")
    old = again(file).rollout_key("a", 1)
    KeyFile(file).rotate_signing(ROLLOUT_KEY_S)
    new = again(file).rollout_key("b", 1)
    assert [again(file).open(key).rollout_id for key in (old, new)] == ["a", "b"]
    KeyFile(file).rotate_signing(0)
    for key in (old, new):
        with pytest.raises(Forbidden):
            again(file).open(key)


def test_a_key_file_that_others_can_read_is_refused(file: Path) -> None:
    KeyFile(file).add("ann", "train")
    file.chmod(0o644)
    with pytest.raises(BadConfig, match="chmod 600"):
        KeyFile(file)


def test_a_server_refuses_an_address_that_others_reach_without_a_key_that_somebody_chose(file: Path) -> None:
    store = str(file.with_name("store.sqlite"))
    with pytest.raises(BadConfig, match="refusing to listen on"):
        serve(store, host="0.0.0.0")
    with pytest.raises(BadConfig, match="no operator's key"):
        serve(store, host="0.0.0.0", key_file=KeyFile(file))


@contextmanager
def served(*arguments: str, folder: Path) -> Iterator[str]:
    """`leyden serve`; its URL."""
    command = [sys.executable, "-m", "leyden", "serve", "--store", str(folder / "s.sqlite"), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


def leyden(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leyden", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_keys_come_and_go_while_a_server_answers_by_https(file: Path) -> None:
    folder = file.parent
    made = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 1"
    named = "-subj /CN=leyden -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(shlex.split(f"openssl req -x509 {made} {named}"), cwd=folder, check=True, capture_output=True)
    old = leyden("keys", "add", "ann", "--role", "read", "--keys", str(file)).stdout.strip()
    certificate = str(folder / "cert.pem")
    flags = ("--keys", str(file), "--tls-cert", certificate, "--tls-key", str(folder / "key.pem"))
    with served(*flags, folder=folder) as url:
        assert url.startswith("https://127.0.0.1:")
        stranger = leyden("rollouts", "--server", url, LEYDEN_KEY=old)
        assert (stranger.returncode, "CERTIFICATE_VERIFY_FAILED" in stranger.stderr) == (1, True)
        trusting = leyden("rollouts", "--server", url, LEYDEN_KEY=old, SSL_CERT_FILE=certificate)
        assert trusting.returncode == 0, trusting.stderr
        new = leyden("keys", "add", "ann-2", "--role", "read", "--keys", str(file)).stdout.strip()
        assert "ann is revoked" in leyden("keys", "revoke", "ann", "--keys", str(file)).stdout
        with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=certificate)) as client:

            def asked(key: str) -> int:
                return client.get("/api/rollouts", headers={"Authorization": f"Bearer {key}"}).status_code

            while asked(old) == 200:  # within a second
                pass
            assert (asked(old), asked(new)) == (403, 200)
    assert "ann-2  read" in leyden("keys", "list", "--keys", str(file)).stdout


def test_tls_files_that_do_not_belong_together_are_named(file: Path) -> None:
    store = str(file.with_name("s.sqlite"))
    wrong = leyden("serve", "--store", store, "--port", "0", "--tls-cert", "a.pem")
    assert (wrong.returncode, "--tls-cert and --tls-key belong together" in wrong.stderr) == (2, True)
    wrong = leyden("serve", "--store", store, "--port", "0", "--tls-cert", "a.pem", "--tls-key", "b.pem")
    assert (wrong.returncode, "cannot use --tls-cert a.pem" in wrong.stderr) == (2, True)
