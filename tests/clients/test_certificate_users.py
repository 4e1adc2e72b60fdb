"""Users who show a certificate instead of a password, with the real etcdctl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.etcdctl import ENV, ETCDCTL, NO_ETCDCTL
from tests.support.server import ServerProcess, start_server
from tests.transports.certificates import Authority

pytestmark = [pytest.mark.etcd, pytest.mark.slow]


def ctl(
    server: ServerProcess, authority: Authority, user: str, *words: str
) -> tuple[bool, str]:
    """Whether etcdctl with a user's certificate succeeds, and what it says."""
    assert ETCDCTL is not None, NO_ETCDCTL
    command = [
        ETCDCTL,
        f"--endpoints={server.url}",
        "--command-timeout=10s",
        f"--cacert={authority.path('ca.crt')}",
        f"--cert={authority.path(user + '.crt')}",
        f"--key={authority.path(user + '.key')}",
        *words,
    ]
    done = subprocess.run(
        command, env=ENV, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("transport", ["grpcio", "grpc"])
def test_a_certificate_is_a_user(tmp_path: Path, transport: str) -> None:
    """With client-cert-auth the common name of a certificate is the user: root may do
    everything, ann what her role says, and a stranger nothing."""
    authority = Authority(tmp_path)
    authority.sign("server", "server", "DNS:localhost,IP:127.0.0.1")
    for name in ("root", "ann", "bob"):
        authority.sign(name, name)
    flags: Any = {
        "cert_file": authority.path("server.crt"),
        "key_file": authority.path("server.key"),
        "trusted_ca_file": authority.path("ca.crt"),
        "client_cert_auth": True,
        "listen_client_urls": "https://127.0.0.1:0",
        "advertise_client_urls": "https://127.0.0.1:0",
        "transport": transport,
    }
    with start_server("memory", tmp_path / "data", **flags) as server:
        for words in (
            ("user", "add", "root", "--no-password"),
            ("user", "grant-role", "root", "root"),
            ("user", "add", "ann", "--no-password"),
            ("role", "add", "hers"),
            ("role", "grant-permission", "hers", "readwrite", "a"),
            ("user", "grant-role", "ann", "hers"),
            ("auth", "enable"),
            ("put", "b", "by root"),
        ):
            done, said = ctl(server, authority, "root", *words)
            assert done, (words, said)
        assert ctl(server, authority, "ann", "put", "a", "1") == (True, "OK\n")
        done, said = ctl(server, authority, "ann", "get", "b")
        assert not done
        assert "permission denied" in said
        done, said = ctl(server, authority, "bob", "put", "a", "2")
        assert not done
        assert "permission denied" in said
