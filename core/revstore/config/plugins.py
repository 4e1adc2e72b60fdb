"""Rules between the configuration and the plugins that it chooses."""

from __future__ import annotations

from revstore.config.load import LoadedConfig
from revstore.errors import ConfigError, PluginError
from revstore.plugin.kinds import KINDS
from revstore.plugin.manager import PluginManager


def plugin_problems(loaded: LoadedConfig, manager: PluginManager) -> list[str]:
    """What is wrong with the chosen plugins and their options, empty if nothing.

    Imports the modules of the four plugins, not their drivers. Raises: nothing.
    """
    config = loaded.config
    problems = []
    for kind in KINDS:
        name = getattr(config, kind)
        try:
            manager.convert_options(kind, name, loaded.plugin_options[kind])
        except PluginError as exc:
            problems.append(f"{loaded.origins[kind]}: {exc}")
        except ConfigError as exc:
            problems.append(f"{_option_origin(loaded, kind, str(exc))}: {exc}")
    if problems:
        return problems
    consensus = manager.find("consensus", config.consensus)
    members = len(config.initial_cluster)
    if members > 1 and not consensus.capabilities.multi_member:
        problems.append(
            f"{loaded.origins['initial-cluster']}: initial-cluster has {members} "
            f"members but consensus {config.consensus!r} is for one alone; use "
            "consensus=raft"
        )
    try:
        between = manager.find("transport", config.peer_transport)
    except PluginError as exc:
        problems.append(f"{loaded.origins['peer-transport']}: {exc}")
    else:
        if consensus.capabilities.multi_member and not between.capabilities.peers:
            problems.append(
                f"{loaded.origins['peer-transport']}: transport "
                f"{config.peer_transport!r} does not connect members"
            )
    transport = manager.find("transport", config.transport)
    if not transport.capabilities.clients:
        problems.append(
            f"{loaded.origins['transport']}: transport {config.transport!r} does not "
            "serve clients"
        )
    if config.cert_file and not transport.capabilities.tls:
        problems.append(
            f"{loaded.origins['cert-file']}: transport {config.transport!r} has no TLS"
        )
    return problems


def _option_origin(loaded: LoadedConfig, kind: str, message: str) -> str:
    """Where the option that a message quotes comes from."""
    for path, origin in loaded.origins.items():
        if path.startswith(f"{kind}.") and repr(path.rpartition(".")[2]) in message:
            return origin
    return loaded.origins[kind]
