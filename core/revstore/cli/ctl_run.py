"""Running a command of ``revstore ctl``: from flags to a client, from errors to words.

Rules of this file:

1. A command is a coroutine function of a ``Session``; what it returns is the exit code.
2. An error is one line that says what happened, and where there is something to do
   about it a second one that says what.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import click
import msgspec

from revstore.api import errors
from revstore.cli import output
from revstore.cli.ctl_options import (
    ENDPOINTS,
    PARAMETER,
    Duration,
    connection_options,
    names_of_options,
    value_of,
)
from revstore.client.cluster import endpoints_of
from revstore.client.opening import connect, parse_endpoints
from revstore.client.retry import OutcomeUnknown
from revstore.client.store import AsyncClient
from revstore.errors import ApiError, RevstoreError, Unavailable, UsageError
from revstore.interfaces.channel import ChannelTls

COMMAND_TIMEOUT_S = 5.0
DIAL_TIMEOUT_S = 2.0
CALLS_A_COMMAND = 4
"""How many calls, which have the time of --command-timeout each, a command may take."""

HINTS = {
    errors.USER_EMPTY.message: "the cluster asks for users: give --user NAME",
    errors.AUTH_FAILED.message: "check the name and the password of --user",
    errors.PERMISSION_DENIED.message: (
        "ask for a role with the permission ('revstore ctl role grant-permission'), "
        "or use a user that has one"
    ),
    errors.NO_LEADER.message: (
        "too few members are up or can reach one another; look at "
        "'revstore ctl endpoint health --cluster'"
    ),
    errors.TIMEOUT.message: (
        "the members could not agree in time; look at "
        "'revstore ctl endpoint health --cluster'"
    ),
    errors.NO_SPACE.message: (
        "delete and compact, then 'revstore ctl alarm disarm', or raise "
        "--quota-backend-bytes of the servers"
    ),
    errors.COMPACTED.message: "ask for a newer revision; the old ones are compacted",
    errors.FUTURE_REV.message: "there is no such revision yet",
    errors.LEASE_NOT_FOUND.message: "it expired or was revoked; grant another one",
    errors.MEMBER_NOT_FOUND.message: "'revstore ctl member list' shows the ids",
    errors.BAD_LEADER_TRANSFEREE.message: (
        "it must be the id of another voter: 'revstore ctl member list' shows them"
    ),
    errors.LEARNER_NOT_READY.message: "wait until it has caught up, then try again",
    errors.MEMBER_NOT_ENOUGH_STARTED.message: (
        "start the members that are down first; look at "
        "'revstore ctl endpoint health --cluster'"
    ),
    errors.UNHEALTHY.message: (
        "the leader does not reach enough members; look at "
        "'revstore ctl endpoint health --cluster'"
    ),
    errors.NOT_LEADER.message: (
        "give the leader's endpoint, too: 'revstore ctl endpoint status --cluster' "
        "shows it"
    ),
    errors.AUTH_NOT_ENABLED.message: "the cluster asks for no users; leave --user out",
}
"""What to do about an answer, by its text."""


REASONS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "name who signed the servers' certificates with --cacert, and if the name in "
        "them is another than the endpoint's, that one with --server-name"
    ),
    "the other side closed it": (
        "the server may want TLS (https:// or tcps://), a client certificate "
        "(--cert, --key), or the other transport (http:// or tcp://)"
    ),
}
"""What to do about an endpoint that cannot be reached, by a word of the reason."""


class Flags(msgspec.Struct, frozen=True):
    """The flags of the connection, with their defaults."""

    endpoints: tuple[str, ...]
    user: str
    password: str
    tls: ChannelTls | None
    command_timeout_s: float
    dial_timeout_s: float
    form: str

    @property
    def as_json(self) -> bool:
        """Whether the result is for a program."""
        return self.form == "json"

    @property
    def as_table(self) -> bool:
        """Whether a table was asked for where lines are usual."""
        return self.form == "table"


class Session:
    """A command's client and flags."""

    def __init__(self, client: AsyncClient, flags: Flags) -> None:
        self.client = client
        self.flags = flags

    async def endpoints(self, of_cluster: bool) -> tuple[str, ...]:
        """Those given, or with ``--cluster`` those of all members."""
        if not of_cluster:
            return self.client.endpoints
        members = await self.client.cluster.members()
        found = endpoints_of(members, self.client.endpoints)
        if not found:
            raise UsageError("no member tells a client URL; give --endpoints instead")
        return found

    def show(self, document: Any, header: Sequence[str], rows: Sequence[Any]) -> None:
        """A result, as JSON or as a table."""
        if self.flags.as_json:
            output.json(document)
        else:
            output.table(header, rows)

    def tell(self, document: Any, text: str) -> None:
        """A result, as JSON or in words."""
        if self.flags.as_json:
            output.json(document)
        else:
            output.line(text)


Work = Callable[..., Awaitable[int | None]]


def command(
    group: click.Group | None = None,
    name: str | None = None,
    *,
    wait: bool = True,
    unbounded: bool = False,
) -> Callable[[Work], click.Command]:
    """Make a coroutine function of (session, arguments) a command of a group.

    ``wait`` has it begin only when an endpoint answers; ``unbounded`` commands run
    until they are ended.
    """

    def decorate(work: Work) -> click.Command:
        @functools.wraps(work)
        def run(**given: Any) -> int:
            flags, arguments = _split(given)
            return execute(work, flags, arguments, wait=wait, unbounded=unbounded)

        wrapped = connection_options(run)
        make = click.command if group is None else group.command
        made: click.Command = make(name)(wrapped)
        return made

    return decorate


def execute(
    work: Work,
    flags: Flags,
    arguments: Mapping[str, Any],
    *,
    wait: bool,
    unbounded: bool,
) -> int:
    """Run a command; its exit code. Raises: UsageError."""
    try:
        return asyncio.run(_run(work, flags, arguments, wait, unbounded))
    except UsageError:
        raise
    except RevstoreError as error:
        output.error_of(error, debug=output.show_traceback())
        advice = hint(error)
        if advice:
            output.hint(advice)
        return output.FAILURE


def hint(error: RevstoreError) -> str:
    """What to do about an error; empty if the error says it all. Raises: nothing."""
    if isinstance(error, OutcomeUnknown):
        return (
            "the change was sent and not answered: it may have been done, or may be "
            "later; look before you do it again"
        )
    if isinstance(error, Unavailable):
        for word, advice in REASONS.items():
            if word in str(error):
                return advice
        return "check --endpoints, and that the servers run and can be reached"
    if isinstance(error, ApiError):
        return HINTS.get(error.message, "")
    return ""


async def _run(
    work: Work, flags: Flags, arguments: Mapping[str, Any], wait: bool, unbounded: bool
) -> int:
    client = await connect(
        flags.endpoints,
        user=flags.user,
        password=flags.password,
        tls=flags.tls,
        timeout_s=flags.command_timeout_s,
        connect_timeout_s=flags.dial_timeout_s,
        wait=wait,
    )
    async with client:
        session = Session(client, flags)
        limit = None if unbounded else CALLS_A_COMMAND * flags.command_timeout_s
        try:
            async with asyncio.timeout(limit):
                code = await work(session, **arguments)
        except TimeoutError:
            raise Unavailable("the command took too long") from None
    return output.OK if code is None else code


def _split(given: Mapping[str, Any]) -> tuple[Flags, dict[str, Any]]:
    """The flags of the connection, and the command's own arguments."""
    names = names_of_options()
    context = click.get_current_context()
    before: Mapping[str, Any] = {}
    while context.parent is not None:
        context = context.parent
        if isinstance(context.obj, dict):
            before = context.obj
            break
    found = {name: value_of(name, given, before, os.environ) for name in names}
    arguments = {
        name: value for name, value in given.items() if not name.startswith(PARAMETER)
    }
    return _flags(found), arguments


def _flags(found: Mapping[str, Any]) -> Flags:
    tls = None
    skip = found["insecure_skip_tls_verify"] not in (None, False, "", "0", "false")
    texts = ("cacert", "cert", "key", "server_name")
    if skip or any(found[name] for name in texts):
        tls = ChannelTls(
            trusted_ca_file=found["cacert"] or "",
            cert_file=found["cert"] or "",
            key_file=found["key"] or "",
            server_name=found["server_name"] or "",
            insecure_skip_verify=skip,
        )
    duration = Duration()

    def seconds(name: str, default: float) -> float:
        value = found[name]
        return default if value is None else duration.convert(value, None, None)

    user, password = _user(found)
    return Flags(
        endpoints=parse_endpoints(found["endpoints"] or ENDPOINTS, secure=bool(tls)),
        user=user,
        password=password,
        tls=tls,
        command_timeout_s=seconds("command_timeout", COMMAND_TIMEOUT_S),
        dial_timeout_s=seconds("dial_timeout", DIAL_TIMEOUT_S),
        form=found["output"] or "text",
    )


def _user(found: Mapping[str, Any]) -> tuple[str, str]:
    user, colon, password = str(found["user"] or "").partition(":")
    if not colon:
        if found["password"] is not None:
            password = str(found["password"])
        elif user:
            password = getpass.getpass(f"password of {user}: ")
    if password and not user:
        raise UsageError("--password needs --user")
    return user, password
