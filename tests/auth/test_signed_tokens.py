"""Signed tokens, where the optional library is installed."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from revstore.api import errors
from revstore.auth import TokenProvider
from revstore.auth.token_kinds import make_tokens
from revstore.errors import ApiError, ConfigError

if TYPE_CHECKING:
    from tests.auth.conftest import FakeMember

jwt: Any = pytest.importorskip("jwt", reason="PyJWT is not installed")

SECRET = b"0123456789abcdef0123456789abcdef"


class Wall:
    """Wall-clock time that moves when told to."""

    def __init__(self) -> None:
        self.time = 2_000_000_000.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def wall() -> Wall:
    """A wall clock."""
    return Wall()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a shared secret."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def make(member: FakeMember, wall: Wall, options: str) -> TokenProvider:
    """A provider from the setting's text."""
    return make_tokens(f"jwt,{options}", member.clock, Random(1), 300, wall.now)


def test_round_trip_and_end(member: FakeMember, wall: Wall, secret: Path) -> None:
    """A token names its user until its time is over."""
    tokens = make(member, wall, f"sign-method=HS256,priv-key={secret},ttl=1m")
    token = tokens.assign("u", "", 1, 5)
    found = tokens.find(token, 5)
    assert found is not None
    assert (found.username, found.revision) == ("u", 5)
    wall.time += 61
    assert tokens.find(token, 5) is None


def test_older_than_the_newest_change(
    member: FakeMember, wall: Wall, secret: Path
) -> None:
    """A token from before the newest change is refused for everything."""
    tokens = make(member, wall, f"sign-method=HS256,priv-key={secret}")
    token = tokens.assign("u", "", 1, 5)
    with pytest.raises(ApiError) as caught:
        tokens.find(token, 6)
    assert caught.value == errors.AUTH_OLD_REVISION


@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_the_method_is_ours(
    member: FakeMember, wall: Wall, secret: Path, algorithm: str
) -> None:
    """A token signed by another method, or by none, is nobody's."""
    tokens = make(member, wall, f"sign-method=HS256,priv-key={secret}")
    claims = {"username": "root", "revision": 9, "exp": int(wall.time) + 60}
    key = None if algorithm == "none" else SECRET * 2
    forged = jwt.encode(claims, key, algorithm=algorithm)
    assert tokens.find(forged, 5) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"username": "u", "revision": 9},
        {"username": "u", "exp": 3_000_000_000},
        {"username": 5, "revision": 9, "exp": 3_000_000_000},
        {"username": "u", "revision": "9", "exp": 3_000_000_000},
    ],
)
def test_claims_are_checked(
    member: FakeMember, wall: Wall, secret: Path, claims: dict[str, Any]
) -> None:
    """A signed token without user, revision or end is nobody's."""
    tokens = make(member, wall, f"sign-method=HS256,priv-key={secret}")
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    assert tokens.find(token, 5) is None
    assert tokens.find("garbage", 5) is None


def test_public_key_only_checks(member: FakeMember, wall: Wall, tmp_path: Path) -> None:
    """With only a public key tokens of others are known, and none are made."""
    base, reason = "cryptography.hazmat.primitives", "cryptography is not installed"
    serialization: Any = pytest.importorskip(f"{base}.serialization", reason=reason)
    ed25519: Any = pytest.importorskip(f"{base}.asymmetric.ed25519", reason=reason)
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = tmp_path / "private", tmp_path / "public"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    signer = make(member, wall, f"sign-method=EdDSA,priv-key={private}")
    checker = make(member, wall, f"sign-method=EdDSA,pub-key={public}")
    token = signer.assign("u", "", 1, 3)
    assert checker.find(token, 3) == signer.find(token, 3)
    with pytest.raises(ApiError, match="verify-only"):
        checker.assign("u", "", 1, 3)


@pytest.mark.parametrize(
    "options",
    [
        "sign-method=HS256",
        "sign-method=RS256",
        "sign-method=HS256,priv-key=/nowhere/at/all",
        "sign-method=HS256,priv-key={secret},ttl=soon",
        "sign-method=RS256,priv-key={secret}",
        "sign-method=HS256,priv-key={secret},colour=red",
    ],
)
def test_unusable_options(
    member: FakeMember, wall: Wall, secret: Path, options: str
) -> None:
    """What cannot work is a configuration error that names the setting."""
    with pytest.raises(ConfigError, match="auth-token jwt"):
        make(member, wall, options.format(secret=secret))
