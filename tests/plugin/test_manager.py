"""What the plugin manager finds and what it refuses."""

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from revstore.errors import ConfigError, PluginError, StorageError, UsageError
from revstore.hookspecs import WalPlugin
from revstore.interfaces.wal import WalCapabilities
from revstore.plugin import KINDS, OptionText, PluginManager
from revstore.plugin.sources import BUILTIN

ROOT = Path(__file__).resolve().parents[2]


class Tuned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the plugin under test."""

    sync_bytes: int = 1
    fast: bool = False
    label: str = ""

    def __post_init__(self) -> None:
        if self.sync_bytes > 100:
            raise ValueError("sync_bytes must be at most 100")


def descriptor(**changes: Any) -> WalPlugin:
    """A descriptor of a log; its factory returns the options, which is no log."""
    values: dict[str, Any] = {
        "name": "own",
        "summary": "a log",
        "capabilities": WalCapabilities(persistent=False),
        "factory": lambda directory, metadata, threaded, options: options,
        "options": Tuned,
    }
    return WalPlugin(**(values | changes))


def test_table_of_shipped_names_equals_the_entry_points() -> None:
    """The built-in table says what the distribution's entry points say."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = document["project"]["entry-points"]["revstore"]
    assert {name: module for name, (_, module) in BUILTIN.items()} == declared


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_shipped_plugins_are_of_the_kind_in_the_table(name: str) -> None:
    """Each shipped plugin registers under its name and kind."""
    kind, module = BUILTIN[name]
    path = ROOT.glob(f"*/{module.replace('.', '/')}.py")
    if not list(path):
        pytest.skip(f"{module} is not there")
    plugin = PluginManager({}).find(kind, name)  # type: ignore[call-overload]
    assert plugin.name == name


def test_finding_a_shipped_plugin_imports_no_other_and_no_metadata() -> None:
    """A built-in name needs its own module alone, not a scan of all distributions."""
    code = (
        "import sys\n"
        "from revstore.plugin import PluginManager\n"
        "before = set(sys.modules)\n"
        "PluginManager({}).find('backend', 'memory')\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert new == {'revstore_memory'}, new\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_unknown_name_lists_the_known_ones_and_a_close_one() -> None:
    """A wrong name is answered with what there is."""
    with pytest.raises(
        PluginError, match=r"did you mean 'memory'\? installed are: .*lmdb"
    ):
        PluginManager({}).find("backend", "memori")


def test_unknown_kind_is_refused() -> None:
    """A wrong kind is answered with the kinds."""
    with pytest.raises(
        PluginError, match="kinds are consensus, transport, wal, backend"
    ):
        PluginManager({}).find("walls", "x")  # type: ignore[call-overload]


def test_name_of_another_kind_says_which() -> None:
    """Asking for a backend where a log has the name says so."""
    with pytest.raises(PluginError, match="'memory' is a backend plugin, not a wal"):
        PluginManager({}).find("wal", "memory")


def test_third_party_plugin_is_found(site: Any) -> None:
    """A stranger's entry point is found by name, and listed with its distribution."""
    site.wal("strange", distribution="strange-dist")
    manager = PluginManager({})
    assert manager.find("wal", "strange").summary == "a fake"
    assert "strange" in manager.names("wal")
    report = next(each for each in manager.all() if each.name == "strange")
    assert (report.kind, report.distribution, report.version, report.status) == (
        "wal",
        "strange-dist",
        "1.0",
        "ok",
    )
    assert not report.builtin


def test_two_distributions_of_one_name_are_both_named(site: Any) -> None:
    """Which of two plugins is meant is never guessed."""
    site.wal("twin", distribution="dist-one")
    site.wal("twin", distribution="dist-two")
    manager = PluginManager({})
    with pytest.raises(PluginError, match=r"from dist-one 1\.0 and from dist-two 1\.0"):
        manager.find("wal", "twin")
    reports = [each for each in manager.all() if each.name == "twin"]
    assert [each.status for each in reports] == ["conflict", "conflict"]


def test_environment_restricts_distributions(site: Any) -> None:
    """REVSTORE_PLUGINS admits the named distributions only, in any spelling."""
    site.wal("twin", distribution="dist-one")
    site.wal("twin", distribution="dist-two")
    admitted = PluginManager({"REVSTORE_PLUGINS": "Dist_One, other"})
    assert admitted.find("wal", "twin").name == "twin"
    nobody = PluginManager({"REVSTORE_PLUGINS": ""})
    with pytest.raises(PluginError, match="REVSTORE_PLUGINS='' hides"):
        nobody.find("wal", "twin")
    assert nobody.find("backend", "memory").name == "memory"


def test_shipped_name_wins_and_the_other_is_shown(site: Any) -> None:
    """A stranger cannot take over a shipped name; the listing shows the attempt."""
    site.wal("memory", distribution="evil")
    manager = PluginManager({})
    assert manager.find("backend", "memory").summary != "a fake"
    report = next(each for each in manager.all() if each.distribution == "evil")
    assert report.status == "shadowed"
    assert "ask evil to rename it" in report.detail


def test_other_api_version_names_both(site: Any) -> None:
    """A plugin for other contracts is refused with both versions and what to upgrade."""
    site.wal("older", api=0)
    site.wal("newer", api=2)
    manager = PluginManager({})
    with pytest.raises(
        PluginError, match=r"version 0 .* has version 1; upgrade the pl"
    ):
        manager.find("wal", "older")
    with pytest.raises(PluginError, match=r"version 2 .* has version 1; upgrade revst"):
        manager.find("wal", "newer")


def test_module_with_another_name_is_refused(site: Any) -> None:
    """The name of the entry point and of the descriptor have to be the same."""
    site.wal("outer", registered="inner")
    with pytest.raises(PluginError, match="registers the name 'inner'"):
        PluginManager({}).find("wal", "outer")


BROKEN = {
    "empty": ("", "registers nothing"),
    "typo": (
        "from revstore.hookspecs import hookimpl\n"
        "@hookimpl\ndef revstore_register_bakend(register): pass\n",
        "unknown hook 'revstore_register_bakend'",
    ),
    "arguments": (
        "from revstore.hookspecs import hookimpl\n"
        "@hookimpl\ndef revstore_register_wal(registrar): pass\n",
        "registrar",
    ),
    "type": (
        "from revstore.hookspecs import hookimpl\n"
        "@hookimpl\ndef revstore_register_wal(register): register('wal')\n",
        "must register a WalPlugin, not a str",
    ),
    "raising": (
        "from revstore.hookspecs import hookimpl\n"
        "@hookimpl\ndef revstore_register_wal(register): raise KeyError('x')\n",
        "revstore_register_wal failed: KeyError",
    ),
    "importing": ("import no_such_driver\n", "imports its driver in the factory"),
    "syntax": ("1 +", "cannot be imported: SyntaxError"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_module_is_reported_and_spoils_no_other(site: Any, name: str) -> None:
    """What is wrong with a module is said, and all others go on."""
    source, message = BROKEN[name]
    site.plugin(name, source, distribution="broken-dist")
    manager = PluginManager({})
    with pytest.raises(PluginError, match=message) as caught:
        manager.find("wal", name)
    assert "from broken-dist 1.0" in str(caught.value)
    report = next(each for each in manager.all() if each.name == name)
    assert report.status == "broken"
    assert message in report.detail
    assert "memory" in manager.names("backend")


def test_entry_point_to_a_missing_module_is_reported(site: Any) -> None:
    """Metadata without the module behind it gives an error, not a crash."""
    site.distribution("ghost", {"ghost": "fake_ghost_module"})
    with pytest.raises(PluginError, match=r"No module named 'fake_ghost_module'$"):
        PluginManager({}).find("wal", "ghost")


def test_missing_driver_names_the_extra(site: Any, tmp_path: Path) -> None:
    """A factory that cannot import its driver gives the command that installs it."""
    site.wal("driven", distribution="my-dist", body="import no_such_drv", extra="drv")
    with pytest.raises(PluginError, match=r"pip install 'my-dist\[drv\]'") as caught:
        PluginManager({}).make_wal("driven", tmp_path / "wal", b"", False)
    assert isinstance(caught.value.__cause__, ImportError)


def test_missing_driver_shows_in_the_listing(site: Any) -> None:
    """The listing knows from metadata alone that a driver is not installed."""
    site.wal("driven", extra="drv")
    metadata = next(site.root.glob("dist_driven*")) / "METADATA"
    with metadata.open("a") as file:
        file.write("Requires-Dist: no-such-dist>=1; extra == 'drv'\n")
    report = next(each for each in PluginManager({}).all() if each.name == "driven")
    assert report.status == "driver missing"
    assert "no-such-dist is not installed; install it with: pip" in report.detail


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise ValueError('bad')", PluginError, "ValueError: bad"),
        ("raise OSError(28, 'No space left')", StorageError, "No space left"),
        ("return 5", PluginError, "returned a int, not a Wal"),
    ],
)
def test_what_a_factory_does_wrong_becomes_an_own_error(
    site: Any, tmp_path: Path, body: str, error: type[Exception], message: str
) -> None:
    """Nothing but revstore's errors comes out of a factory."""
    site.wal("odd", body=body)
    with pytest.raises(error, match=message):
        PluginManager({}).make_wal("odd", tmp_path / "wal", b"", False)


def test_own_errors_of_a_factory_pass_unchanged(tmp_path: Path) -> None:
    """An error that the contract allows is not wrapped."""

    def factory(*arguments: Any) -> Any:
        raise UsageError("as it is")

    manager = PluginManager({})
    manager.register(descriptor(factory=factory))
    with pytest.raises(UsageError, match=r"^as it is$"):
        manager.make_wal("own", tmp_path, b"", False)


def test_directory_is_made_private_before_the_factory_runs(tmp_path: Path) -> None:
    """The factory finds its directory, which only the owner can read."""
    seen: list[int] = []

    def factory(directory: Path, *rest: Any) -> Any:
        seen.append(directory.stat().st_mode & 0o777)
        raise UsageError("enough")

    manager = PluginManager({})
    manager.register(descriptor(factory=factory))
    with pytest.raises(UsageError, match="enough"):
        manager.make_wal("own", tmp_path / "a" / "b", b"", False)
    assert seen == [0o700]


def test_file_in_the_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    """A path that is a file is refused with its name."""
    path = tmp_path / "file"
    path.write_text("")
    manager = PluginManager({})
    manager.register(descriptor())
    with pytest.raises(StorageError, match=f"{path} cannot be made"):
        manager.make_wal("own", path, b"", False)


def test_options_are_converted_by_where_they_come_from() -> None:
    """Text of a flag becomes what the model asks for; a typed value must have the type."""
    manager = PluginManager({})
    manager.register(descriptor())
    given = {"sync-bytes": OptionText("7"), "fast": OptionText("true")}
    assert manager.convert_options("wal", "own", given) == Tuned(7, True)
    assert (
        manager.convert_options("wal", "own", {"label": OptionText("7")}).label == "7"
    )
    with pytest.raises(ConfigError, match="'sync_bytes' of wal 'own': Expected `int`"):
        manager.convert_options("wal", "own", {"sync_bytes": "7"})
    with pytest.raises(ConfigError, match="'fast' of wal 'own'"):
        manager.convert_options("wal", "own", {"fast": OptionText("maybe")})


def test_unknown_option_names_option_plugin_and_known_ones() -> None:
    """A wrong option name is answered with the right ones."""
    manager = PluginManager({})
    manager.register(descriptor())
    with pytest.raises(
        ConfigError,
        match=r"wal 'own' has no option 'sync_byte'; did you mean 'sync_bytes'\? its "
        "options are fast, label, sync_bytes",
    ):
        manager.convert_options("wal", "own", {"sync_byte": 1})
    with pytest.raises(ConfigError, match="backend 'memory' has no options"):
        manager.convert_options("backend", "memory", {"x": 1})


def test_value_that_the_model_refuses_is_a_config_error() -> None:
    """What a model's own check says reaches the operator."""
    manager = PluginManager({})
    manager.register(descriptor())
    with pytest.raises(ConfigError, match="wal 'own': sync_bytes must be at most 100"):
        manager.convert_options("wal", "own", {"sync_bytes": 101})


class Demanding(msgspec.Struct, frozen=True):
    """A model that breaks the rule of defaults."""

    size: int


class Mutable(msgspec.Struct):
    """A model that breaks the rule of being frozen."""

    size: int = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": Demanding}, "Demanding.size needs a default"),
        ({"options": Mutable}, "Mutable must be frozen"),
        ({"options": dict}, "options must be a subclass of msgspec.Struct"),
        ({"capabilities": None}, "capabilities must be a WalCapabilities"),
        ({"factory": None}, "factory cannot be called"),
        ({"name": ""}, "has no name"),
        ({"api_version": 9}, "version 9"),
    ],
)
def test_descriptors_that_break_a_rule_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    """Every rule of a descriptor is checked when it is registered."""
    with pytest.raises(PluginError, match=message):
        PluginManager({}).register(descriptor(**changes))


def test_in_process_names_are_unique_too(site: Any) -> None:
    """A registered plugin cannot double a registered, shipped or installed one."""
    manager = PluginManager({})
    manager.register(descriptor())
    with pytest.raises(PluginError, match="two plugins have the name 'own'"):
        manager.register(descriptor())
    with pytest.raises(PluginError, match=r"from revstore and from \(in process\)"):
        manager.register(descriptor(name="lmdb"))
    with pytest.raises(PluginError, match="takes a plugin descriptor, not a str"):
        manager.register("own")  # type: ignore[arg-type]
    site.wal("own", distribution="dist-own")
    with pytest.raises(PluginError, match=r"from dist-own 1\.0 and from"):
        manager.find("wal", "own")


def test_listing_is_sorted_by_kind_and_name() -> None:
    """The listing has a stable order and every kind."""
    manager = PluginManager({})
    manager.register(descriptor())
    reports = manager.all()
    places = [[*KINDS].index(report.kind) for report in reports]  # type: ignore[arg-type]
    assert places == sorted(places)
    assert set(places) == set(range(len(KINDS)))


def test_trace_logs_each_hook_call(caplog: pytest.LogCaptureFixture) -> None:
    """REVSTORE_TRACE_PLUGINS=1 logs every hook before and after its call."""
    caplog.set_level(logging.INFO)
    PluginManager({"REVSTORE_TRACE_PLUGINS": "1"}).find("backend", "memory")
    messages = [
        (record.message, record.__dict__["fields"]) for record in caplog.records
    ]
    done = [fields for message, fields in messages if message == "hook done"]
    assert {"revstore_register_backend", "revstore_register_wal"} <= {
        fields["hook"] for fields in done
    }
    assert all(fields["module"] == "revstore_memory.plugin" for fields in done)
