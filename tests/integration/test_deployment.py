"""What examples/ offers for running mailqueue: the systemd units, the Compose file, the scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailqueue import cli
from mailqueue.cli import arguments
from mailqueue.config import Callbacks, Config, Delivery, Http, MongoDB
from mailqueue.smtp.server import GRACE

REPO = Path(__file__).parents[2]
UNITS = REPO / "examples" / "systemd"
COMPOSE = REPO / "examples" / "docker-compose.yml"


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


# systemd -----------------------------------------------------------------------------------------

CONSUMER = "mailqueue-consumer@.service"
RESPONDER = "mailqueue-responder@.service"
# What each unit runs, in the words of its command line; how long it takes to end, at most.
COMMANDS = {
    CONSUMER: ("mailqueue.consumer", 3 * MongoDB().timeout + Delivery().deadline),
    "mailqueue-http@.service": (
        "mailqueue http --port %i",
        Http().timeout + 2 * MongoDB().timeout + 1,
    ),
    "mailqueue-smtp@.service": ("mailqueue smtp --port %i", GRACE + 2 * MongoDB().timeout),
    "mailqueue-intake@.service": ("mailqueue intake", MongoDB().timeout),
    RESPONDER: (
        "mailqueue responder",
        Callbacks().timeout + MongoDB().timeout,
    ),
    "mailqueue-metrics@.service": ("mailqueue metrics --port %i", MongoDB().timeout),
}
each_unit = pytest.mark.parametrize("name", COMMANDS)


def unit(name: str) -> str:
    return (UNITS / name).read_text()


def directives(name: str) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in unit(name).splitlines():
        key, is_one, value = line.partition("=")
        if is_one and not line.startswith("#"):
            found[key].append(value)
    return found


def test_every_unit_is_looked_at() -> None:
    assert {path.name for path in UNITS.iterdir()} == COMMANDS.keys()


def test_what_units_and_compose_start_are_verbs_of_the_command_line() -> None:
    commands = [command for command, _ in COMMANDS.values()] + [c for c in OURS.values() if c]
    verbs = {words[1] for c in commands if (words := c.split())[0] == "mailqueue"}
    assert verbs == {"http", "smtp", "intake", "responder", "metrics"}
    assert verbs <= cli.VERBS.keys()


@each_unit
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, name: str) -> None:
    installed = tmp_path / name.replace("@", "@1")
    # Everything but the place where the package is installed, which need not exist here.
    installed.write_text(unit(name).replace("/opt/mailqueue/bin/python", sys.executable))
    checked = run("systemd-analyze", "verify", installed)
    assert (checked.returncode, checked.stderr) == (0, "")


@each_unit
def test_the_unit_gives_the_process_the_time_to_finish_what_is_under_way(name: str) -> None:
    assert int(directives(name)["TimeoutStopSec"][0]) > COMMANDS[name][1]
    assert directives(name)["KillMode"] == ["mixed"]


@each_unit
def test_the_unit_runs_in_production_and_does_not_repeat_a_wrong_configuration(name: str) -> None:
    assert "MAILQUEUE_ENV=production" in directives(name)["Environment"]
    assert directives(name)["Restart"] == ["always"]
    assert directives(name)["RestartPreventExitStatus"] == ["2"]
    assert directives(name)["Type"] == ["notify"]
    assert directives(name)["WatchdogSec"] == ["60"]


@each_unit
def test_the_unit_reads_the_configuration_where_a_reload_finds_it_changed(name: str) -> None:
    """A credential is a copy, made at the start."""
    assert directives(name)["ExecStart"][0].endswith("--config /etc/mailqueue/config.json")
    assert directives(name)["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@each_unit
def test_the_unit_imports_nothing_from_where_it_is_started_and_leaves_no_core_file(
    name: str,
) -> None:
    assert f"/bin/python -P -m {COMMANDS[name][0]} " in directives(name)["ExecStart"][0]
    assert directives(name)["LimitCORE"] == ["0"]
    is_small = any(word in name for word in ("intake", "responder", "metrics"))
    assert directives(name)["MemoryMax"] == ["512M" if is_small else "1G"]


@each_unit
def test_every_unit_is_confined_as_the_consumers_is(name: str) -> None:
    assert unit(name).partition("DynamicUser=")[2] == unit(CONSUMER).partition("DynamicUser=")[2]


def test_only_the_consumer_has_the_vendors_secrets() -> None:
    own = {RESPONDER: ["CALLBACK_SECRET:/etc/mailqueue/secrets/CALLBACK_SECRET"]}
    for name in COMMANDS.keys() - {CONSUMER}:
        assert directives(name).get("LoadCredential", []) == own.get(name, [])


def test_the_consumer_has_the_secrets_of_the_sample_configuration() -> None:
    names = re.findall(r"\$\{(\w+)\}", (REPO / "sample_config.json").read_text())
    loaded = [line.partition(":")[0] for line in directives(CONSUMER)["LoadCredential"]]
    assert loaded == names


@each_unit
def test_the_unit_tells_nobody_to_install_a_name_from_an_index(name: str) -> None:
    """Somebody else may own it there."""
    assert "pip install mailqueue" not in unit(name)


# Docker Compose ----------------------------------------------------------------------------------


OURS = {  # with the command of each; None: the image's own
    "consumer": None,
    "http": "mailqueue http --host 0.0.0.0 --dashboard --config /config.json",
    "smtp": "mailqueue smtp --host 0.0.0.0 --config /config.json",
    "intake": "mailqueue intake --config /config.json",
    "responder": "mailqueue responder --config /config.json",
    "metrics": "mailqueue metrics --host 0.0.0.0 --config /config.json",
}
PROFILES = {"consumer": [], "responder": ["out"], "metrics": ["monitoring"]}
KEYS = "${MAILQUEUE_KEYS:-[]}"


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text())


def test_compose_gives_mongodb_a_replica_set_and_beanstalkd_a_binlog(compose: Any) -> None:
    services = compose["services"]
    assert set(services) == {"mongo", "beanstalkd", *OURS}
    assert "--replSet" in services["mongo"]["command"]
    assert "rs.initiate" in services["mongo"]["healthcheck"]["test"][-1]
    assert {"-b", "-f0"} <= set(services["beanstalkd"]["command"])
    for name in OURS:
        assert services[name]["depends_on"]["mongo"] == {"condition": "service_healthy"}


def test_compose_starts_each_process_of_ours_by_its_command(compose: Any) -> None:
    for name, command in OURS.items():
        service = compose["services"][name]
        assert " ".join(service.get("command", ())) == (command or "")
        # The ways in need a key, which nobody has at first: they start when they are asked for.
        assert service.get("profiles", []) == PROFILES.get(name, ["in"])
        assert service["configs"] == [{"source": "mailqueue", "target": "/config.json"}]


def test_a_consumers_container_is_healthy_as_long_as_its_consumer_lives(compose: Any) -> None:
    test = compose["services"]["consumer"]["healthcheck"]["test"]
    assert test[:5] == ["CMD", "python", "-P", "-m", "mailqueue"]
    options = arguments.parse(test[5:])
    assert (options.verb, options.max_age) == ("health", 60)


@pytest.mark.parametrize("keys", ["[]", f'[{{"name": "shop", "sha256": "{"0f" * 32}"}}]'])
def test_the_configuration_in_compose_is_valid_and_leads_to_its_services(
    compose: Any, keys: str
) -> None:
    written = compose["configs"]["mailqueue"]["content"].replace(KEYS, keys).replace("$$", "$")
    config = Config.from_mapping(json.loads(written), secrets=False, environ={})
    assert "//mongo:27017/" in config.mongodb.uri
    assert config.beanstalkd.servers == ("beanstalkd:11300",)
    assert len(config.http.keys) == len(json.loads(keys))


def test_compose_builds_what_the_dockerfile_offers(compose: Any) -> None:
    for service in ("beanstalkd", *OURS):
        build = compose["services"][service]["build"]
        dockerfile = (COMPOSE.parent / build["context"] / build["dockerfile"]).read_text()
        assert f" AS {build['target']}\n" in dockerfile


def test_every_service_in_compose_is_confined(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["ulimits"] == {"core": 0}, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        # MongoDB's image sets its folder up as root.
        assert service.get("read_only", False) == (name != "mongo"), name


def test_every_image_is_named_by_its_digest(compose: Any) -> None:
    dockerfile = (REPO / "examples" / "Dockerfile").read_text()
    images = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    images.append(compose["services"]["mongo"]["image"])
    assert len(images) == 3
    assert all(re.fullmatch(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in images)


def test_compose_hands_secrets_over_as_files(compose: Any) -> None:
    consumer = compose["services"]["consumer"]
    assert consumer["environment"] == ["MAILQUEUE_ENV", "CREDENTIALS_DIRECTORY=/run/secrets"]
    written = compose["configs"]["mailqueue"]["content"]
    vendors = {name for name in re.findall(r"\$\$\{(\w+)\}", written) if name.endswith("_KEY")}
    assert vendors == set(consumer["secrets"])
    secrets = {name: set(compose["services"][name].get("secrets", ())) for name in OURS}
    assert set(compose["secrets"]) == set().union(*secrets.values())
    assert (secrets["http"], secrets["intake"]) == (set(), set())
    assert secrets["smtp"] == {"smtp.pem"}
    assert secrets["responder"] == {"CALLBACK_SECRET"}
    assert "$${CALLBACK_SECRET}" in written
    assert '"/run/secrets/smtp.pem"' in written


def compose_is_here() -> bool:
    return bool(shutil.which("docker")) and run("docker", "compose", "version").returncode == 0


@pytest.mark.skipif(not compose_is_here(), reason="Docker Compose is not on this machine")
def test_docker_compose_accepts_the_file() -> None:
    checked = run("docker", "compose", "--file", COMPOSE, "config", "--quiet")
    assert checked.returncode == 0, checked.stderr


# Scripts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", ["examples/setup.sh", "examples/quickstart.sh", "tests/run.sh", ".ci/run"]
)
def test_bash_can_read_the_script(script: str) -> None:
    checked = run("bash", "-n", REPO / script)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.fixture
def fake_venv(tmp_path: Path) -> Path:
    """An environment whose python writes down what it is asked for, and does nothing."""
    (tmp_path / "bin").mkdir()
    for program in ("python", "beanstalkd"):
        path = tmp_path / "bin" / program
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
        path.chmod(0o755)
    return tmp_path


def set_up(group: str, venv: Path) -> str:
    """What the environment's python was asked for during ``set_up GROUP``."""
    (venv / "asked").write_text("")
    script = f"set -euo pipefail; source {REPO}/examples/setup.sh; set_up {group}"
    done = run("bash", "-c", script, env={**os.environ, "MAILQUEUE_VENV": str(venv)})
    assert done.returncode == 0, done.stderr
    return (venv / "asked").read_text()


def test_setting_up_brings_a_pip_that_knows_groups_before_it_installs_one(fake_venv: Path) -> None:
    newer_pip, group = (
        line for line in set_up("dev", fake_venv).splitlines() if "pip install" in line
    )
    assert "pip>=25.1" in newer_pip
    assert "--group dev --editable ." in group


def test_the_scripts_find_a_server_as_the_product_does() -> None:
    script = f"set -euo pipefail; source {REPO}/examples/setup.sh; server bash"
    done = run("bash", "-c", script, env={**os.environ, "MAILQUEUE_VENV": sys.prefix})
    assert done.stdout == f"{shutil.which('bash')}\n"


def test_setting_up_a_second_time_installs_nothing(fake_venv: Path) -> None:
    assert set_up("quickstart", fake_venv)
    assert set_up("quickstart", fake_venv) == ""
    assert set_up("dev", fake_venv)


def test_what_the_tests_have_set_up_serves_the_quickstart_too(fake_venv: Path) -> None:
    set_up("dev", fake_venv)
    assert set_up("quickstart", fake_venv) == ""
