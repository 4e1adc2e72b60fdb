"""Simple tokens: form, life and end."""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING

import pytest

from revstore.api import errors
from revstore.auth.token_kinds import make_tokens
from revstore.auth.tokens import SimpleTokens, looks_simple, token_of
from revstore.errors import ApiError, ConfigError
from revstore.proto import rpc_pb2

if TYPE_CHECKING:
    from tests.auth.conftest import FakeMember


def make(member: FakeMember, **options: int) -> SimpleTokens:
    """A provider on the member's clock."""
    return SimpleTokens(member.clock, Random(1), **options)


def owner(tokens: SimpleTokens, token: str) -> str | None:
    """Whose token this is."""
    found = tokens.find(token, 7)
    return None if found is None else found.username


def test_form(member: FakeMember) -> None:
    """A token is 16 letters, a dot and the index of its entry."""
    member.enable()
    first = member.log_in("root", "rp")
    second = member.log_in("root", "rp")
    assert re.fullmatch(r"[A-Za-z]{16}\.\d+", first)
    assert first != second
    assert int(second.split(".")[1]) == int(first.split(".")[1]) + 1
    assert int(second.split(".")[1]) == member.rows.applied_index
    assert looks_simple(first)
    assert not looks_simple("zzz.5")
    assert not looks_simple("a" * 16)


def test_life_slides(member: FakeMember) -> None:
    """Each use gives a token its whole life again; unused it ends."""
    tokens = make(member, ttl_s=300)
    token = tokens.assign("u", tokens.make_prefix(), 1, 1)
    for _use in range(3):
        member.clock.time += 299
        assert owner(tokens, token) == "u"
    member.clock.time += 300
    assert owner(tokens, token) is None
    assert len(tokens) == 0


def test_expired_tokens_leave_the_table(member: FakeMember) -> None:
    """Tokens that nobody uses do not pile up, whatever the order of use."""
    tokens = make(member, ttl_s=10)
    early = tokens.assign("a", "a", 1, 1)
    member.clock.time += 5
    tokens.assign("b", "b", 2, 1)
    assert owner(tokens, early) == "a"
    member.clock.time += 9
    tokens.assign("c", "c", 3, 1)
    assert len(tokens) == 3
    member.clock.time += 2
    assert owner(tokens, early) is None
    assert len(tokens) == 1


def test_the_table_is_bounded(member: FakeMember) -> None:
    """Beyond the bound the token that was not used for longest goes."""
    tokens = make(member, tokens_max=2)
    one, two = (tokens.assign("u", prefix, 1, 1) for prefix in "ab")
    assert owner(tokens, one) == "u"
    three = tokens.assign("u", "c", 1, 1)
    assert [owner(tokens, token) for token in (one, two, three)] == ["u", None, "u"]


def test_a_token_has_the_revision_of_now(member: FakeMember) -> None:
    """A simple token is not made old by a change; its owner acts at the newest."""
    root = member.enable()
    member.add_user("u", "p", token=root)
    found = member.auth.authenticate({"token": root})
    assert found == member.info("root")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("token", "{}"),
        ("token", "Bearer {}"),
        ("authorization", "{}"),
        ("authorization", "Bearer {}"),
    ],
)
def test_where_a_token_is_looked_for(member: FakeMember, name: str, form: str) -> None:
    """Both names, with and without the word Bearer."""
    token = member.enable()
    found = member.auth.authenticate({name: form.format(token)})
    assert found == member.info("root")


def test_token_goes_before_authorization() -> None:
    """If both are sent, ``token`` counts; no token is not an empty one."""
    assert token_of({"token": "a", "authorization": "b"}) == "a"
    assert token_of({"token": ""}) == ""
    assert token_of({}) is None


def test_unknown_and_absent(member: FakeMember) -> None:
    """An unknown token is an error, none is nobody, and with auth off all is nobody."""
    assert member.auth.authenticate({"token": "x"}) is None
    member.enable()
    assert member.auth.authenticate({}) is None
    for token in ("x", ""):
        with pytest.raises(ApiError) as caught:
            member.auth.authenticate({"token": token})
        assert caught.value == errors.INVALID_AUTH_TOKEN


def test_a_certificate_names_its_user(member: FakeMember) -> None:
    """Without a token a client is who its verified certificate names; a token counts
    more, and what a gateway passes on is not the gateway's. Where certificates are not
    asked to name users they do not."""
    shown = {":client-common-name": "alice"}
    token = member.enable()
    assert member.auth.authenticate(shown) is None
    member.auth._certificate_users = True
    found = member.auth.authenticate(shown)
    assert found is not None
    assert (found.username, found.revision) == ("alice", member.auth.revision)
    assert member.auth.authenticate({**shown, "token": token}) == member.info("root")
    with pytest.raises(ApiError) as caught:
        member.auth.authenticate({**shown, "token": "x"})
    assert caught.value == errors.INVALID_AUTH_TOKEN
    assert member.auth.authenticate({**shown, "grpcgateway-accept": "*/*"}) is None
    assert member.auth.authenticate({":client-common-name": ""}) is None


def test_ends_of_tokens(member: FakeMember) -> None:
    """A changed password, a deleted user and turning auth off end tokens."""
    for name in ("a", "b", "c"):
        member.add_user(name, "p")
    root = member.enable()
    tokens = {name: member.log_in(name, "p") for name in ("a", "b", "c")}
    change = rpc_pb2.AuthUserChangePasswordRequest(name="a", password="q")
    member.do("UserChangePassword", change, root)
    member.do("UserDelete", rpc_pb2.AuthUserDeleteRequest(name="b"), root)
    provider = member.auth.tokens
    known = [name for name in tokens if provider.find(tokens[name], 1) is not None]
    assert known == ["c"]
    member.do("AuthDisable", rpc_pb2.AuthDisableRequest(), root)
    member.do("AuthEnable", rpc_pb2.AuthEnableRequest())
    assert provider.find(tokens["c"], 1) is None


@pytest.mark.parametrize(
    "spec", ["", "fancy", "simple,ttl=5", "jwt", "jwt,sign-method=none", "jwt,a,b"]
)
def test_unusable_kinds(member: FakeMember, spec: str) -> None:
    """A kind that cannot be had is a configuration error."""
    with pytest.raises(ConfigError, match="auth-token"):
        make_tokens(spec, member.clock, Random(1), 300, lambda: 0.0)


def test_unusable_life(member: FakeMember) -> None:
    """Tokens need a life and room."""
    with pytest.raises(ConfigError):
        make(member, ttl_s=0)
    with pytest.raises(ConfigError):
        make(member, tokens_max=0)
