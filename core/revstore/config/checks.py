"""Rules between settings, and the defaults that follow from other settings.

Rules of this file:

1. ``derive`` fills what was not given; ``check`` only looks.
2. Where etcd refuses a combination it is refused here; where etcd warns, so do we.
"""

from __future__ import annotations

from revstore.config import foreign
from revstore.config.forms import Form, host_and_port, retention, to_text
from revstore.config.layers import Layers
from revstore.errors import ConfigError
from revstore.logs import parse_rotation

HEARTBEATS_PER_ELECTION = 5
REQUEST_BYTES_USUAL = 10 * 1024 * 1024
QUOTA_BYTES_USUAL = 8 * 1024**3
_DERIVED = "derived from "


def derive(layers: Layers) -> None:
    """Fill the settings whose default follows from others. Raises: nothing."""
    values = layers.values
    if not values["data-dir"]:
        values["data-dir"] = f"{values['name']}.revstore"
        layers.origins["data-dir"] = f"{_DERIVED}name"
    if not layers.given("advertise-client-urls") and layers.given("listen-client-urls"):
        urls = values["listen-client-urls"]
        # Clients of etcd read the member list and know nothing of other schemes.
        plain = tuple(url for url in urls if not url.startswith("tcp"))
        values["advertise-client-urls"] = plain or urls
        layers.origins["advertise-client-urls"] = f"{_DERIVED}listen-client-urls"
    if not values["initial-cluster"]:
        urls = values["initial-advertise-peer-urls"]
        values["initial-cluster"] = {values["name"]: urls}
        layers.origins["initial-cluster"] = (
            f"{_DERIVED}name and initial-advertise-peer-urls"
        )
    _derive_retention(layers)


def _derive_retention(layers: Layers) -> None:
    given = layers.values["auto-compaction-retention"]
    if not isinstance(given, str):
        return
    layers.values["auto-compaction-retention"] = 0.0
    mode = layers.values["auto-compaction-mode"]
    try:
        kept = retention(mode, given)
    except ValueError as exc:
        origin = layers.origins["auto-compaction-retention"]
        unit = "revisions" if mode == "revision" else "hours, or a duration like 30m"
        layers.problem(
            origin,
            f"auto-compaction-retention: {exc}; mode {mode} takes a number of {unit}",
        )
        return
    layers.values["auto-compaction-retention"] = kept


def check(layers: Layers) -> None:
    """Note every combination that cannot work or should be known. Raises: nothing."""
    _check_names(layers)
    _check_times(layers)
    _check_urls(layers)
    _check_cluster(layers)
    _check_tls(layers)
    _check_gates(layers)
    _check_token(layers)
    _check_rotation(layers)
    _warn(layers)


def _check_names(layers: Layers) -> None:
    for name in ("name", "backend", "wal", "consensus", "transport", "peer-transport"):
        value = layers.values[name]
        if not value.strip():
            layers.problem(layers.origins[name], f"{name} must not be empty")
    if "," in layers.values["name"] or "=" in layers.values["name"]:
        layers.problem(layers.origins["name"], "name must not contain ',' or '='")


def _check_times(layers: Layers) -> None:
    heartbeat = layers.values["heartbeat-interval"]
    election = layers.values["election-timeout"]
    if election < HEARTBEATS_PER_ELECTION * heartbeat:
        layers.problem(
            _origin(layers, "election-timeout", "heartbeat-interval"),
            f"election-timeout ({election} ms) must be at least "
            f"{HEARTBEATS_PER_ELECTION} times heartbeat-interval ({heartbeat} ms)",
        )


def _check_urls(layers: Layers) -> None:
    for name in (
        "listen-client-urls",
        "listen-peer-urls",
        "initial-advertise-peer-urls",
    ):
        if not layers.values[name]:
            layers.problem(layers.origins[name], f"{name} needs at least one URL")
    for name in ("advertise-client-urls", "initial-advertise-peer-urls"):
        for url in layers.values[name]:
            if not url.startswith("unix") and host_and_port(url)[0] in (
                "0.0.0.0",
                "::",
            ):
                layers.problem(
                    layers.origins[name],
                    f"{name}: {url} cannot be reached by others; set {name} to an "
                    "address of this machine",
                )
    seen: dict[tuple[str, int], str] = {}
    for name in (
        "listen-client-urls",
        "listen-client-http-urls",
        "listen-metrics-urls",
    ):
        for url in layers.values[name]:
            place = host_and_port(url)
            if url.startswith("unix") or place[1] == 0:
                continue
            if place in seen:
                layers.problem(
                    layers.origins[name], f"{name}: {url} is in {seen[place]} already"
                )
            seen[place] = name


def _check_cluster(layers: Layers) -> None:
    members = layers.values["initial-cluster"]
    name = layers.values["name"]
    if not layers.given("initial-cluster"):
        return
    if name not in members:
        layers.problem(
            _origin(layers, "initial-cluster", "name"),
            f"initial-cluster names {', '.join(members)} but not this member "
            f"({name!r}); set name or add {name}=URL",
        )
        return
    advertised = layers.values["initial-advertise-peer-urls"]
    if sorted(members[name]) != sorted(advertised):
        layers.problem(
            _origin(layers, "initial-cluster", "initial-advertise-peer-urls"),
            f"initial-cluster gives {name} the URLs {', '.join(members[name])} but "
            f"initial-advertise-peer-urls says {', '.join(advertised)}; make them equal",
        )


def _check_tls(layers: Layers) -> None:
    values = layers.values
    for prefix, listen in (
        ("", ("listen-client-urls", "listen-client-http-urls")),
        ("peer-", ("listen-peer-urls",)),
    ):
        certificate, key = values[f"{prefix}cert-file"], values[f"{prefix}key-file"]
        if bool(certificate) != bool(key):
            layers.problem(
                _origin(layers, f"{prefix}cert-file", f"{prefix}key-file"),
                f"{prefix}cert-file and {prefix}key-file go together; give both",
            )
        auth = f"{prefix}client-cert-auth"
        if values[auth] and not values[f"{prefix}trusted-ca-file"]:
            layers.problem(
                layers.origins[auth], f"{auth} needs {prefix}trusted-ca-file"
            )
        for name in listen:
            secure = [
                url
                for url in values[name]
                if url.startswith(("https", "unixs", "tcps"))
            ]
            if secure and not certificate:
                layers.problem(
                    layers.origins[name],
                    f"{name}: {secure[0]} needs {prefix}cert-file and {prefix}key-file",
                )
            if certificate and not secure and name == listen[0]:
                layers.warnings.append(
                    f"{layers.origins[f'{prefix}cert-file']}: {prefix}cert-file is not "
                    f"used: {name} has no https URL"
                )
            if values[auth] and len(secure) < len(values[name]):
                layers.problem(
                    _origin(layers, name, auth),
                    f"{auth} is set but {name} has a URL without TLS; use https alone",
                )


def _check_gates(layers: Layers) -> None:
    unknown = sorted(set(layers.values["feature-gates"]) - foreign.GATES)
    if unknown:
        layers.problem(
            layers.origins["feature-gates"],
            f"feature-gates: there is no feature {', '.join(unknown)}; the features "
            f"are {', '.join(sorted(foreign.GATES))}",
        )


def _check_token(layers: Layers) -> None:
    kind, _, parameters = layers.values["auth-token"].partition(",")
    if kind == "simple":
        return
    origin = layers.origins["auth-token"]
    if kind != "jwt":
        layers.problem(origin, f"auth-token: {kind!r} is neither simple nor jwt")
        return
    keys = {part.partition("=")[0] for part in parameters.split(",")}
    if "sign-method" not in keys:
        layers.problem(origin, "auth-token: jwt needs sign-method, for example RS256")


def _check_rotation(layers: Layers) -> None:
    if not layers.values["enable-log-rotation"]:
        return
    origin = layers.origins["log-rotation-config-json"]
    try:
        rotation = parse_rotation(layers.values["log-rotation-config-json"])
    except ConfigError as exc:
        layers.problem(origin, str(exc))
        return
    if rotation.maxage or rotation.localtime or rotation.compress:
        layers.warnings.append(
            f"{origin}: log-rotation-config-json: maxage, localtime and compress have "
            "no effect here; files are rotated by maxsize and kept by maxbackups"
        )


def _warn(layers: Layers) -> None:
    values = layers.values
    if values["unsafe-no-fsync"]:
        layers.warnings.append(
            f"{layers.origins['unsafe-no-fsync']}: unsafe-no-fsync: a power cut loses "
            "acknowledged data"
        )
    if values["max-request-bytes"] > REQUEST_BYTES_USUAL:
        layers.warnings.append(
            f"{layers.origins['max-request-bytes']}: max-request-bytes is above 10 MiB; "
            "large requests delay all others"
        )
    if values["quota-backend-bytes"] > QUOTA_BYTES_USUAL:
        layers.warnings.append(
            f"{layers.origins['quota-backend-bytes']}: quota-backend-bytes is above "
            "8 GiB, more than etcd recommends"
        )
    if layers.given("auto-compaction-mode") and not values["auto-compaction-retention"]:
        mode = to_text(Form.TEXT, values["auto-compaction-mode"])
        layers.warnings.append(
            f"{layers.origins['auto-compaction-mode']}: auto-compaction-mode={mode} does "
            "nothing without auto-compaction-retention"
        )


def _origin(layers: Layers, *names: str) -> str:
    """Where the first of the settings that was given comes from."""
    for name in names:
        if layers.given(name):
            return layers.origins[name]
    return layers.origins[names[0]]
