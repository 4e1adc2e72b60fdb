"""``revstore ctl txn``: a transaction in the language of etcdctl.

Three parts with an empty line between: conditions, what to do if all hold, what to do
else::

    value("config") = "old"
    version("lock") = "0"

    put config "new"

    get config
"""

from __future__ import annotations

import re
import shlex
import sys

from revstore.cli import output
from revstore.cli.ctl_run import Session, command
from revstore.cli.ctl_show import lease_id, pair_fields, print_pair
from revstore.embedded.txn import Compare, Delete, Get, Operation, Put
from revstore.embedded.values import DeleteResult, PutResult, RangeAnswer, TxnResult
from revstore.errors import UsageError

_CONDITION = re.compile(
    r"""^(val|value|ver|version|mod|mod_revision|c|create|create_revision|lease)
    \(\s*"((?:[^"\\]|\\.)*)"\s*\)\s*(=|!=|<|>)\s*"?((?:[^"\\]|\\.)*)"?$""",
    re.VERBOSE,
)
EXAMPLE = (
    'value("KEY") = "VALUE", version("KEY") > "0", mod("KEY") < "9", '
    'create("KEY") = "0" or lease("KEY") != "0"'
)


@command(name="txn")
async def txn(session: Session) -> None:
    """Run a transaction read from standard input.

    Three parts with an empty line between: conditions, what to do if all hold, and
    what to do else. Conditions are written value("KEY") = "VALUE", with version, mod,
    create and lease for numbers; operations are get, put and del as on the command
    line.
    """
    compare, success, failure = parse(sys.stdin.read())
    result = await session.client.txn(compare, success, failure)
    if session.flags.as_json:
        output.json(_document(result))
    else:
        output.line("SUCCESS" if result.succeeded else "FAILURE")
        for answer in result.answers:
            _print(answer)


def parse(text: str) -> tuple[list[Compare], list[Operation], list[Operation]]:
    """A transaction from its text. Raises: UsageError: a line is not understood."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            parts[-1].append(line.strip())
        else:
            parts.append([])
    while len(parts) > 3 and not parts[-1]:
        parts.pop()
    if len(parts) > 3:
        raise UsageError(
            "a transaction has three parts with one empty line between: conditions, "
            "operations, other operations"
        )
    parts += [[]] * (3 - len(parts))
    return (
        [_condition(line) for line in parts[0]],
        [_operation(line) for line in parts[1]],
        [_operation(line) for line in parts[2]],
    )


def _condition(line: str) -> Compare:
    found = _CONDITION.match(line)
    if found is None:
        raise UsageError(f"{line!r} is no condition; write {EXAMPLE}")
    target, key, operator, operand = found.groups()
    key, operand = _plain(key), _plain(operand)
    if target in ("val", "value"):
        return Compare.value(key, operator, operand)
    if target == "lease":
        return Compare.lease(key, operator, lease_id(operand))
    try:
        number = int(operand)
    except ValueError:
        raise UsageError(f"{line!r} compares a number: {operand!r} is none") from None
    if target in ("ver", "version"):
        return Compare.version(key, operator, number)
    if target in ("mod", "mod_revision"):
        return Compare.mod(key, operator, number)
    return Compare.create(key, operator, number)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _operation(line: str) -> Operation:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{line!r} cannot be read: {error}") from None
    flags = {word for word in words if word.startswith("--")}
    rest = [word for word in words if not word.startswith("--")]
    lease = next((f.partition("=")[2] for f in flags if f.startswith("--lease=")), "0")
    unknown = {
        f for f in flags if f not in ("--prefix",) and not f.startswith("--lease=")
    }
    if unknown:
        raise UsageError(f"{line!r}: {', '.join(sorted(unknown))} is not known here")
    prefix = "--prefix" in flags
    name, arguments = rest[0] if rest else "", rest[1:]
    if name == "put" and len(arguments) == 2:
        return Put(arguments[0], arguments[1], lease=lease_id(lease))
    if name in ("get", "del") and len(arguments) in (1, 2):
        make = Get if name == "get" else Delete
        if prefix:
            return make(prefix=arguments[0])
        end = arguments[1] if len(arguments) == 2 else None
        return make(key=arguments[0], end=end)
    raise UsageError(
        f"{line!r} is no operation; write put KEY VALUE, get KEY [END] [--prefix] or "
        "del KEY [END] [--prefix]"
    )


def _print(answer: PutResult | DeleteResult | RangeAnswer | TxnResult) -> None:
    output.line("")
    if isinstance(answer, PutResult):
        output.line("OK")
    elif isinstance(answer, DeleteResult):
        output.line(str(answer.deleted))
    elif isinstance(answer, RangeAnswer):
        for pair in answer.kvs:
            print_pair(pair)


def _document(
    answer: PutResult | DeleteResult | RangeAnswer | TxnResult,
) -> dict[str, object]:
    if isinstance(answer, TxnResult):
        return {
            "succeeded": answer.succeeded,
            "revision": answer.revision,
            "answers": [_document(one) for one in answer.answers],
        }
    if isinstance(answer, PutResult):
        return {"put": True}
    if isinstance(answer, DeleteResult):
        return {"deleted": answer.deleted}
    return {"pairs": [pair_fields(pair) for pair in answer.kvs], "count": answer.count}
