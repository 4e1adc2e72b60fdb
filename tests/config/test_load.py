"""One configuration out of profile, file, environment and flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revstore.config import (
    ConfigProblems,
    LoadedConfig,
    foreign,
    load_config,
    parse_flags,
)
from revstore.config.forms import Form, from_text, to_text
from revstore.config.profiles import PROFILES
from revstore.config.settings import COMMAND_NAMES, SETTINGS, known_names
from revstore.errors import ConfigError, PluginError, UsageError
from revstore.plugin import OptionText, PluginManager

FLAGS_OF_ETCD = (
    (Path(__file__).parent / "etcd_flags_3_6.txt").read_text(encoding="ascii").split()
)

TLS = ["--cert-file=a", "--key-file=b", "--listen-client-urls=https://127.0.0.1:1"]
HALF_TLS = "--listen-client-urls=https://127.0.0.1:1,http://127.0.0.1:2"


def load(
    *flags: str, file: Path | None = None, environ: dict[str, str] | None = None
) -> LoadedConfig:
    """A configuration from flags, away from the environment of the test run."""
    return load_config(parse_flags(flags), environ or {}, file)


def problems(*flags: str, **sources: Any) -> tuple[str, ...]:
    """What is wrong with a configuration."""
    with pytest.raises(ConfigProblems) as caught:
        load(*flags, **sources)
    return caught.value.problems


def toml(path: Path, text: str) -> Path:
    """A TOML file."""
    file = path / "revstore.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_flag_of_etcd_is_known() -> None:
    """No flag that etcd 3.6 has is answered with "there is no such flag"."""
    assert sorted(set(FLAGS_OF_ETCD) - set(known_names())) == []
    assert len(FLAGS_OF_ETCD) > 120


def test_every_known_name_is_answered_in_one_way() -> None:
    """A name is a setting, a foreign name of one table, or of the command alone."""
    names = known_names()
    assert len(names) == len(set(names))
    targets = [*foreign.RENAMED.values()]
    assert set(targets) <= {*SETTINGS, *foreign.NO_EFFECT, *foreign.REFUSED}
    assert set(foreign.GATED.values()) <= foreign.GATES
    assert {*foreign.NO_EFFECT, *foreign.REFUSED} >= foreign.BOOLEAN_FOREIGN


@pytest.mark.parametrize("name", FLAGS_OF_ETCD)
def test_every_flag_of_etcd_has_its_effect_or_says_so(name: str) -> None:
    """A flag with its default is accepted, warned about, or refused with advice."""
    if name in COMMAND_NAMES:
        return
    new = foreign.RENAMED.get(name, name)
    if new in SETTINGS:
        value = SETTINGS[new].default_text()
        if new == "auto-compaction-retention":
            value = "0"
        loaded = load(f"--{name}={value}")
        derived = new in ("data-dir", "initial-cluster")
        assert derived or loaded.origins[new] == f"flag --{name}"
        assert bool(loaded.warnings) == (name != new or new == "auto-compaction-mode")
    elif new in foreign.REFUSED:
        for harmless in foreign.REFUSED[new][0]:
            load(f"--{name}={harmless}")
        found = problems(f"--{name}=something")
        assert len(found) == 1
        assert "is not supported; " in found[0]
    elif name in foreign.GATED:
        gate = foreign.GATED[name]
        assert load(f"--{name}").config.feature_gates == {gate: True}
    else:
        assert "has no effect here" in load(f"--{name}=1").warnings[-1]


@pytest.mark.parametrize("name", sorted(foreign.REMOVED))
def test_flags_of_older_etcds_say_what_became_of_them(name: str) -> None:
    """A flag that etcd 3.6 does not know either is refused with the reason."""
    assert problems(f"--{name}=x")[0].startswith(
        f"flag --{name}: {name} does not exist:"
    )


@given(
    st.sampled_from([each for each in SETTINGS.values() if each.form is Form.DURATION])
)
def test_defaults_survive_being_written_as_flags(setting: Any) -> None:
    """The text that documents show for a default means that default."""
    assert from_text(setting.form, setting.default_text()) == setting.default


@given(
    st.dictionaries(
        st.text("abcxyz-_", min_size=1),
        st.lists(st.just("http://10.0.0.1:2380"), min_size=1, max_size=3).map(tuple),
        max_size=4,
    )
)
def test_clusters_are_read_back(members: dict[str, tuple[str, ...]]) -> None:
    """A cluster written as a flag is read back."""
    assert from_text(Form.CLUSTER, to_text(Form.CLUSTER, members)) == members


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--name", "a"], {"name": "a"}),
        (["-name", "a"], {"name": "a"}),
        (["--name=a=b"], {"name": "a=b"}),
        (["--name", "a", "--name=b"], {"name": "b"}),
        (["--pre-vote", "--name=a"], {"pre-vote": "true", "name": "a"}),
        (["-pre-vote=false"], {"pre-vote": "false"}),
        (["--name", "--odd"], {"name": "--odd"}),
        (["--name=a", "--"], {"name": "a"}),
        (["-h"], {"help": "true"}),
        (["--set", "a.b=1", "--set=a.c=2"], {"set": ["a.b=1", "a.c=2"]}),
        (["--experimental-memory-mlock"], {"experimental-memory-mlock": "true"}),
    ],
)
def test_command_lines_are_read_as_go_reads_them(
    words: list[str], expected: Any
) -> None:
    """One dash or two, value apart or behind '=', booleans alone, the last one wins."""
    assert parse_flags(words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nam=x"], "there is no flag --nam; did you mean --name"),
        (["--name"], "--name needs a value"),
        (["stray"], "'stray' is not a flag"),
        (["--pre-vote", "false"], "'false' is not a flag; a boolean takes its value"),
        (["--", "x"], "'x' is not a flag"),
        (["-"], "'-' is not a flag"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(words: list[str], message: str) -> None:
    """Each mistake names the word and what to write."""
    with pytest.raises(UsageError, match=message):
        parse_flags(words)


def test_later_sources_win_and_origins_tell(tmp_path: Path) -> None:
    """default < profile < file < ETCD_ < REVSTORE_ < flag, each with its origin."""
    file = toml(
        tmp_path,
        '[server]\nprofile = "write-heavy"\nname = "f"\nmax-txn-ops = 1\n'
        "compaction-batch-limit = 7\n",
    )
    environ = {
        "ETCD_NAME": "e",
        "REVSTORE_NAME": "r",
        "ETCD_MAX_TXN_OPS": "2",
        "ETCD_DATA_DIR": "",
    }
    loaded = load("--name=g", file=file, environ=environ)
    config, origins = loaded.config, loaded.origins
    assert (config.backend, origins["backend"]) == ("rocksdb", "profile write-heavy")
    assert config.compaction_batch_limit == 7
    assert origins["compaction-batch-limit"] == f"{file}:5"
    assert (config.max_txn_ops, origins["max-txn-ops"]) == (
        2,
        "environment ETCD_MAX_TXN_OPS",
    )
    assert (config.name, origins["name"]) == ("g", "flag --name")
    assert load(environ=environ).config.name == "r"
    assert (config.data_dir, origins["data-dir"]) == ("g.revstore", "derived from name")
    assert origins["wal-dir"] == "default"


def test_defaults_alone_make_a_valid_configuration() -> None:
    """A server starts without any setting, and every value has an origin."""
    loaded = load()
    assert loaded.warnings == []
    assert loaded.config.initial_cluster == {"default": ("http://localhost:2380",)}
    assert set(loaded.origins) == set(SETTINGS)


def test_advertised_urls_follow_the_listeners() -> None:
    """Without advertise-client-urls the listeners are announced."""
    loaded = load("--listen-client-urls=http://127.0.0.1:5")
    assert loaded.config.advertise_client_urls == ("http://127.0.0.1:5",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--heartbeat-interval=300"], "must be at least 5 times heartbeat-interval"),
        (["--election-timeout=50001"], "must be at most 50000"),
        (["--heartbeat-interval=0"], "must be at least 1"),
        (["--heartbeat-interval=1.5"], "no whole number"),
        (["--watch-progress-notify-interval=50ms"], "must be at least 100ms"),
        (["--bcrypt-cost=3"], "must be at least 4"),
        (["--pre-vote=maybe"], "neither true nor false"),
        (["--max-txn-ops=99999999999999999999"], "does not fit in 64 bits"),
        (["--initial-cluster-state=old"], "'old' is none of 'new', 'existing'"),
        (["--profile=kubernets"], "did you mean 'kubernetes'"),
        (["--log-level=loud"], "is none of"),
        (["--raft-read-timeout=5"], "for example 100ms"),
        (["--listen-client-urls=127.0.0.1:2379"], "must start with http://"),
        (["--listen-client-urls=http://host.example:1"], "use an IP address"),
        (["--listen-client-urls=http://127.0.0.1"], "has no port"),
        (["--listen-client-urls=http://127.0.0.1:99999"], "is no URL"),
        (["--listen-client-urls=http://127.0.0.1:1/x"], "must end after the port"),
        (["--listen-client-urls=http://:1"], "has no host"),
        (["--listen-client-urls=unix://"], "has no path"),
        (["--listen-client-urls="], "needs at least one URL"),
        (["--listen-client-urls=http://0.0.0.0:1"], "cannot be reached by others"),
        (["--listen-client-urls=https://127.0.0.1:1"], "needs cert-file and key-file"),
        (["--listen-metrics-urls=http://localhost:2379"], "is in listen-client-urls"),
        (["--cert-file=a"], "give both"),
        ([*TLS, "--client-cert-auth"], "needs trusted-ca-file"),
        (
            [*TLS, "--client-cert-auth", "--trusted-ca-file=c", HALF_TLS],
            "has a URL without TLS",
        ),
        (["--initial-cluster=b=http://10.0.0.1:2380"], "but not this member"),
        (["--initial-cluster=default=http://10.0.0.1:2380"], "make them equal"),
        (["--initial-cluster=nonsense"], "not of the form name=http"),
        (["--feature-gates=Nope=true"], "there is no feature Nope"),
        (["--feature-gates=AllBeta"], "not of the form Name=true"),
        (["--auth-token=magic"], "neither simple nor jwt"),
        (["--auth-token=jwt,pub-key=x"], "needs sign-method"),
        (["--auto-compaction-retention=x"], "a number of hours, or a duration"),
        (["--auto-compaction-retention=-1"], "is below 0"),
        (
            ["--auto-compaction-mode=revision", "--auto-compaction-retention=1h"],
            "revisio",
        ),
        (["--name="], "name must not be empty"),
        (["--name=a,b"], "must not contain"),
        (["--set=lmdb"], "not of the form plugin.option=value"),
        (["--set=rocksdb.x=1"], "'rocksdb' is not in use; in use are consensus raft"),
        (["--set=wal.lmdb.x=1"], "'lmdb' is not in use"),
        (
            ["--enable-log-rotation", "--log-rotation-config-json={"],
            "log-rotation-config",
        ),
    ],
)
def test_wrong_values_say_what_to_do(flags: list[str], message: str) -> None:
    """Each wrong value or combination gives one problem that names the flag."""
    found = problems(*flags)
    assert len(found) == 1
    assert message in found[0]
    assert "flag --" in found[0] or "default" in found[0] or "derived" in found[0]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """A file with several mistakes gives them all, with lines."""
    file = toml(
        tmp_path,
        "top = 1\n"
        "[server]\n"
        'nam = "x"\n'
        "max-txn-ops = true\n"
        'pre-vote = "yes"\n'
        "raft-read-timeout = 5\n"
        "data-dir = 5\n"
        "max-request-bytes = 5\nmax_request_bytes = 6\n"
        "cors = [1]\n"
        "[servr]\nx = 1\n"
        "[backend]\nlmdb = 3\n",
    )
    found = problems(file=file)
    assert [(each.partition(": ")[0].rpartition(":")[2]) for each in found] == [
        "1", "3", "4", "5", "6", "7", "9", "10", "11", "14",
    ]  # fmt: skip
    texts = " | ".join(found)
    for part in (
        "top stands outside a table; put it below [server]",
        "there is no setting nam; did you mean name?",
        "write a whole number without quotes, not True",
        "write true or false without quotes, not 'yes'",
        "write a duration in quotes with a unit ('5s'), not 5",
        "write a text in quotes, not 5",
        "max_request_bytes and max-request-bytes are the same setting",
        "every item of the list must be a text in quotes",
        "there is no table [servr]; did you mean [server]?",
        "options of a backend stand in a table of its name: [backend.NAME]",
    ):
        assert part in texts


def test_file_takes_lists_tables_and_numbers(tmp_path: Path) -> None:
    """TOML's own types may be used where a flag needs text."""
    file = toml(
        tmp_path,
        '[server]\ninitial-cluster = ["a=http://10.0.0.1:2380", "b=http://10.0.0.2:2380"]\n'
        'name = "a"\ninitial_advertise_peer_urls = ["http://10.0.0.1:2380"]\n'
        "feature-gates = { LeaseCheckpoint = true }\n"
        'auto-compaction-mode = "revision"\nauto-compaction-retention = 1000\n',
    )
    config = load(file=file).config
    assert sorted(config.initial_cluster) == ["a", "b"]
    assert config.feature_gates == {"LeaseCheckpoint": True}
    assert config.auto_compaction_retention == 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"[server\n", "is not valid TOML: .*line 1"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_unreadable_files_say_why(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    """A file that cannot be read is named with the reason."""
    file = tmp_path / "x.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(file=file)


def test_yaml_file_gets_a_hint(tmp_path: Path) -> None:
    """Somebody who gives etcd's YAML file is told about TOML."""
    file = tmp_path / "etcd.yaml"
    file.write_text("name: x\n")
    with pytest.raises(ConfigError, match="revstore reads TOML"):
        load(file=file)


def test_config_file_from_variable_and_flag(tmp_path: Path) -> None:
    """--config and REVSTORE_CONFIG name the file."""
    file = toml(tmp_path, '[server]\nname = "x"\n')
    assert load(f"--config={file}").config.name == "x"
    assert load(environ={"REVSTORE_CONFIG": str(file)}).config.name == "x"


def test_unknown_variables_warn_but_do_not_stop() -> None:
    """Kubernetes puts variables with the prefix into every pod."""
    environ = {"REVSTORE_PORT": "tcp://10.0.0.1", "ETCD_NMAE": "x", "ETCDCTL_API": "3"}
    warnings = load(environ=environ).warnings
    assert len(warnings) == 2
    assert "did you mean name?" in warnings[0]
    assert "REVSTORE_PORT" in warnings[1]


@pytest.mark.parametrize(
    ("mode", "text", "kept"),
    [
        ("periodic", "1", 3600.0),
        ("periodic", "30m", 1800.0),
        ("periodic", "0", 0.0),
        ("revision", "1000", 1000),
    ],
)
def test_retention_follows_the_mode(mode: str, text: str, kept: float) -> None:
    """A bare number means hours or revisions."""
    flags = [f"--auto-compaction-retention={text}", f"--auto-compaction-mode={mode}"]
    assert load(*flags).config.auto_compaction_retention == kept


def test_risky_values_warn() -> None:
    """Values that work but cost something are told."""
    loaded = load(
        "--unsafe-no-fsync",
        "--max-request-bytes=20000000",
        "--quota-backend-bytes=9000000000",
        "--auto-compaction-mode=revision",
        "--enable-log-rotation",
        '--log-rotation-config-json={"compress":true}',
        "--cert-file=a",
        "--key-file=b",
    )
    assert [each.partition(": ")[0] for each in loaded.warnings] == [
        "flag --cert-file",
        "flag --log-rotation-config-json",
        "flag --unsafe-no-fsync",
        "flag --max-request-bytes",
        "flag --quota-backend-bytes",
        "flag --auto-compaction-mode",
    ]


def test_plugin_options_are_gathered_in_order(tmp_path: Path) -> None:
    """File < variable < flag for plugin options too; text stays marked as text."""
    file = toml(
        tmp_path, "[backend.lmdb]\na = 1\nb = 1\nc = 1\n[backend.rocksdb]\nz = 1\n"
    )
    loaded = load(
        "--set=lmdb.c=3",
        "--set=wal.segment.d-e=4",
        file=file,
        environ={"REVSTORE_SET_LMDB_B": "2", "REVSTORE_SET_LMDB_C": "2"},
    )
    assert loaded.plugin_options["backend"] == {"a": 1, "b": "2", "c": "3"}
    assert isinstance(loaded.plugin_options["backend"]["b"], OptionText)
    assert loaded.plugin_options["wal"] == {"d_e": "4"}
    assert loaded.origins["backend.lmdb.a"] == f"{file}:2"
    assert loaded.origins["backend.lmdb.b"] == "environment REVSTORE_SET_LMDB_B"
    assert loaded.origins["wal.segment.d_e"] == "flag --set"
    assert len(loaded.warnings) == 1
    assert "z has no effect: the plugin 'rocksdb' is not in use" in loaded.warnings[0]


def test_option_variable_for_no_plugin_is_a_problem() -> None:
    """REVSTORE_SET_ for a plugin that is not in use is told, with those in use."""
    found = problems(environ={"REVSTORE_SET_NOPE_X": "1"})
    assert "with one of GRPC, LMDB, RAFT, SEGMENT" in found[0]


def test_old_boolean_flags_become_gates() -> None:
    """Gates from several flags add up; the later one of the same gate wins."""
    loaded = load(
        "--feature-gates=AllBeta=true,LeaseCheckpoint=false",
        "--experimental-enable-lease-checkpoint",
        "--profile=kubernetes",
    )
    assert loaded.config.feature_gates == {
        "InitialCorruptCheck": True,
        "AllBeta": True,
        "LeaseCheckpoint": True,
    }
    assert problems("--experimental-enable-lease-checkpoint=x")


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_are_valid_and_yield_to_explicit_settings(name: str) -> None:
    """Each value of a profile is what its setting takes, and a flag wins over it."""
    profile = PROFILES[name]
    loaded = load(f"--profile={name}")
    for setting, value in profile.settings.items():
        text = to_text(SETTINGS[setting].form, value)
        assert from_text(SETTINGS[setting].form, text) == value
        assert getattr(loaded.config, SETTINGS[setting].field) == value
        assert value != SETTINGS[setting].default or setting in ("backend", "consensus")
    assert load(f"--profile={name}", "--backend=memory").config.backend == "memory"


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_options_of_profiles_exist(name: str) -> None:
    """The plugins take the options that a profile chooses for them."""
    manager = PluginManager({})
    for (kind, plugin), options in PROFILES[name].options.items():
        try:
            manager.find(kind, plugin)  # type: ignore[call-overload]
        except PluginError as exc:
            if "cannot be imported" not in str(exc):
                raise
            continue
        manager.convert_options(kind, plugin, options)  # type: ignore[arg-type]


def test_profile_options_reach_only_their_plugin() -> None:
    """An option of a profile is used with its plugin and dropped in silence otherwise."""
    assert load("--profile=embedded").plugin_options["backend"]
    other = load("--profile=embedded", "--backend=memory")
    assert other.plugin_options["backend"] == {}
    assert other.warnings == []


def test_profile_names_in_the_model_equal_the_profiles() -> None:
    """The setting admits exactly the profiles there are."""
    assert set(SETTINGS["profile"].choices) == {"", *PROFILES}


def test_debug_flag_sets_the_log_level() -> None:
    """--debug is log-level debug, unless a level is given."""
    assert load("--debug").config.log_level == "debug"
    assert load("--debug", "--log-level=error").config.log_level == "error"


def test_default_rotation_is_what_etcd_prints() -> None:
    """The default of log-rotation-config-json is a JSON object with etcd's keys."""
    keys = json.loads(SETTINGS["log-rotation-config-json"].default)
    assert set(keys) == {"maxsize", "maxage", "maxbackups", "localtime", "compress"}
