"""Plain HTTP on the port of gRPC: paths and what answers them.

The same routes serve HTTP/1.1 and HTTP/2. Whatever wants a path registers it before the
server starts; what nobody registered is 404, in the words of etcd's server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

import msgspec

from revstore import logs

_log = logs.get(__name__)

Answer = Callable[[int, Mapping[str, str], bytes], None]
"""Status, headers and body; called once."""

TEXT = {"content-type": "text/plain; charset=utf-8"}
JSON = {"content-type": "application/json"}


class HttpCall(msgspec.Struct, frozen=True):
    """A request over plain HTTP."""

    method: str
    path: str
    """Without what follows a question mark."""
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Names in lower case; of a repeated name the first counts."""
    body: bytes
    answer: Answer

    def text(self, status: int, body: str) -> None:
        """Answer with text. Raises: nothing."""
        self.answer(status, TEXT, body.encode())

    def json(self, status: int, value: object) -> None:
        """Answer with JSON. Raises: nothing."""
        self.answer(status, JSON, msgspec.json.encode(value))


HttpFunction = Callable[[HttpCall], None]
"""Answers a call, now or later; runs on the server's loop and must not block."""


class HttpRoutes:
    """Functions by path."""

    def __init__(self) -> None:
        self._functions: dict[str, HttpFunction] = {}
        self._prefixes: dict[str, HttpFunction] = {}

    def register(self, path: str, function: HttpFunction) -> None:
        """Answer a path; one that ends with a slash stands for all below it.

        The last registration of a path counts. Raises: nothing.
        """
        (self._prefixes if path.endswith("/") else self._functions)[path] = function

    def serve(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        answer: Answer,
    ) -> None:
        """Answer one request. Raises: nothing."""
        path, _, query = target.partition("?")
        once = _Once(answer)
        call = HttpCall(method, path, parse_qs(query), headers, body, once)
        function = self._functions.get(path) or self._below(path)
        if function is None:
            call.text(404, "404 page not found\n")
            return
        try:
            function(call)
        except Exception:
            _log.exception("an HTTP handler raised", path=path)
            call.text(500, "Internal Server Error\n")

    def _below(self, path: str) -> HttpFunction | None:
        while "/" in path:
            path = path.rpartition("/")[0]
            found = self._prefixes.get(path + "/")
            if found is not None:
                return found
        return None


class _Once:
    """An answer of which only the first counts."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer: Answer | None = answer

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(status, headers, body)
