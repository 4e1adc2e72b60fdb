"""Users, roles, permissions and tokens."""

from revstore.auth.info import AuthInfo, Identity
from revstore.auth.store import AUTH_APPLY, AuthStore
from revstore.auth.tokens import SimpleTokens, TokenProvider

__all__ = [
    "AUTH_APPLY",
    "AuthInfo",
    "AuthStore",
    "Identity",
    "SimpleTokens",
    "TokenProvider",
]
