"""The chart: what Helm makes of it is what Kubernetes takes, and what the server means."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.access.issue import PEPPER
from tests.kit import chart
from tests.kit.chart import CHART, NAME, VALUES
from tests.kit.load import started
from tests.kit.tools import tool
from tests.node import Node
from tests.servers import programs
from traffic_manager.config.loading import load_settings

pytestmark = pytest.mark.kit

# With old changes that are forgotten.
FORGETTING = ("production", "ingress")
# From the end of the drain to the end of the process, at most: see main.py.
AFTER_DRAIN_S = 30
# Rendered with PostgreSQL and a Job that migrates.
MIGRATED = ("postgres", "production", "autoscaled", "pooler", "ingress", "openshift")


@pytest.mark.parametrize("values", VALUES)
def test_lint_has_nothing_to_say(values: str) -> None:
    done = chart.helm("lint", "--strict", "--kube-version", chart.NEWEST, "--values", VALUES[values], CHART)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("kubernetes", [chart.OLDEST, chart.NEWEST])
@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_takes_every_manifest(values: str, kubernetes: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(chart.text_of(values, kubernetes))
    version = kubernetes.removesuffix(".0")
    done = subprocess.run(
        [tool("kubernetes-validate"), "-k", version, "--strict", "--no-warn", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    known = [
        each for each in chart.rendered(values) if not each["apiVersion"].startswith("monitoring.coreos.com")
    ]
    assert done.stdout.count(" passed ") == len(known)


@pytest.mark.parametrize("values", ["production", "by-hand"])
@pytest.mark.parametrize("kind", ["ServiceMonitor", "PrometheusRule"])
def test_prometheus_operator_takes_what_is_for_it(values: str, kind: str) -> None:
    folder = tool("prometheus-operator-crd")
    definition = yaml.safe_load((folder / f"monitoring.coreos.com_{kind.lower()}s.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    schema = _closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    jsonschema_rs.validate(schema, chart.one(values, kind)["spec"])


# Any: a schema of JSON.
def _closed(schema: Any) -> Any:
    """Return a schema that takes no property which it does not name: Kubernetes would drop it without a word."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inside = {name: _closed(each) for name, each in schema.items()}
    is_open = "additionalProperties" in schema or not isinstance(schema.get("properties"), dict)
    return inside if is_open else {**inside, "additionalProperties": False}


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    try:
        promtool = programs.prometheus().with_name("promtool")
    except programs.NotInstalled as missing:
        pytest.skip(f"NEEDS A REAL TOOL: {missing}")
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(chart.one("production", "PrometheusRule")["spec"]))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("values", VALUES)
def test_server_takes_the_settings_of_its_pod(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in chart.environment(values).items():
        monkeypatch.setenv(variable, _here(value, tmp_path))
    settings = load_settings(env_file=None)
    settings.check_serving()
    assert settings.db.is_postgres is ("embedded" not in VALUES[values].read_text())
    assert (settings.auth.pepper is None) == settings.is_open


@pytest.mark.parametrize(
    ("values", "kind"),
    [*((values, "Job") for values in MIGRATED), *((values, "CronJob") for values in FORGETTING)],
)
def test_jobs_take_the_settings_of_their_pods(
    values: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in chart.environment(values, kind).items():
        monkeypatch.setenv(variable, _here(value, tmp_path))
    settings = load_settings(env_file=None)
    owner = settings.db.as_owner
    assert owner.password is not None
    assert owner.user == ("routes_owner" if values == "production" else "app_user")
    assert (settings.app.retention_days is not None) == (kind == "CronJob")


def _here(value: str, folder: Path) -> str:
    """Return *value*, or the file that stands for what is mounted there."""
    if not value.startswith("/run/secrets/"):
        return value
    file = folder / Path(value).name
    file.write_text(PEPPER)
    return str(file)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("kind", chart.WITH_A_POD)
def test_every_file_that_a_setting_names_is_mounted_and_no_other(values: str, kind: str) -> None:
    if kind not in chart.kinds(values):
        assert values not in {"Job": MIGRATED, "CronJob": FORGETTING}[kind]
        return
    named = [value for value in chart.environment(values, kind).values() if value.startswith("/run/secrets/")]
    assert sorted(named) == sorted(chart.mounted(values, kind))


def test_secrets_come_by_reference() -> None:
    secrets = {"AUTH_PEPPER", "DB_PASSWORD", "DB_MIGRATE_PASSWORD", "REDIS_PASSWORD", "KAFKA_SASL_PASSWORD"}
    for values in VALUES:
        assert not secrets & chart.environment(values).keys()
        assert "kind: Secret" not in chart.text_of(values)
    assert {where for where, _, _ in chart.mounted("production").values()} == {"secret", "configMap"}


def test_server_is_not_given_the_role_that_owns_the_tables() -> None:
    names = chart.environment("production") | dict.fromkeys(chart.mounted("production"), "")
    assert not [name for name in names if "MIGRATE" in name]
    assert chart.environment("production", "Job")["DB_MIGRATE_USER"] == "routes_owner"
    job = chart.mounted("production", "Job")
    assert job["/run/secrets/traffic-manager/DB_MIGRATE_PASSWORD"][1] == "traffic-manager-owner"
    assert not [path for path in job if "PEPPER" in path or "REDIS" in path or "KAFKA" in path]


def test_pods_may_nothing_that_they_do_not_need() -> None:
    for name, pod in chart.every_pod():
        assert pod["automountServiceAccountToken"] is False, name
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        # OpenShift gives out a user for each namespace, and refuses those that ask for another.
        assert security.get("runAsUser") == (None if name.startswith("openshift") else 10001), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_no_variable_of_kubernetes_passes_for_a_setting() -> None:
    """A Service named `redis` would set REDIS_PORT to `tcp://10.0.0.1:6379`."""
    assert [name for name, pod in chart.every_pod() if pod["enableServiceLinks"]] == []


@pytest.mark.parametrize("values", VALUES)
def test_probes_ask_what_they_are_for(values: str) -> None:
    container = chart.container(values)
    scheme = "https" if "TLS_CERT_FILE" in chart.environment(values) else "http"
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["path"] for probe in (asked["startup"], asked["liveness"])} == {"/health/live"}
    assert asked["readiness"]["path"] == "/health/ready"
    for probe in asked.values():
        assert (probe["port"], probe["scheme"]) == (scheme, scheme.upper())
    assert [port["name"] for port in container["ports"]] == [scheme]
    assert str(container["ports"][0]["containerPort"]) == chart.environment(values)["API_PORT"]


def test_kubernetes_is_more_patient_than_the_node_itself() -> None:
    probes = chart.container("postgres")
    # A node may take a minute to load its table, and replaces a worker that is stuck for ten seconds.
    assert _patience_s(probes["startupProbe"]) >= 90
    assert _patience_s(probes["livenessProbe"]) >= 30


def _patience_s(probe: Mapping[str, int]) -> int:
    return probe["periodSeconds"] * probe["failureThreshold"]


@pytest.mark.parametrize("values", VALUES)
def test_pod_is_not_killed_while_it_drains(values: str) -> None:
    grace_s = chart.pod(values)["spec"]["terminationGracePeriodSeconds"]
    drain_s = float(chart.environment(values)["DRAIN_SECONDS"])
    readiness = chart.container(values)["readinessProbe"]
    assert grace_s >= drain_s + AFTER_DRAIN_S
    # Drained for longer than it takes until the last has heard that it is not ready.
    assert drain_s > _patience_s(readiness)
    assert "lifecycle" not in chart.container(values)


@pytest.mark.parametrize("values", MIGRATED)
def test_tables_are_migrated_before_the_pods_by_a_job_that_stands_alone(values: str) -> None:
    job = one_job(values)
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert chart.container(values, "Job")["command"] == ["traffic-manager", "migrate"]
    assert chart.container(values, "Job")["image"] == chart.container(values)["image"]
    # What the chart makes beside it is not there yet at the first installation.
    own = {each["metadata"]["name"] for each in chart.rendered(values) if each["kind"] != "Job"}
    spec = job["spec"]["template"]["spec"]
    assert spec.get("serviceAccountName") not in own
    assert not own & {name for _, name, _ in chart.mounted(values, "Job").values()}


def one_job(values: str) -> chart.Manifest:
    return chart.one(values, "Job")


def test_old_changes_are_forgotten_by_the_owner_of_the_tables_where_somebody_said_which() -> None:
    assert {values for values in VALUES if "CronJob" in chart.kinds(values)} == {*FORGETTING}
    assert chart.container("production", "CronJob")["command"] == ["traffic-manager", "compact"]
    assert chart.environment("production", "CronJob")["DB_MIGRATE_USER"] == "routes_owner"
    assert chart.one("production", "CronJob")["spec"]["concurrencyPolicy"] == "Forbid"


def test_what_kafka_has_still_to_get_is_not_forgotten() -> None:
    """Else the command takes it that nobody will ever be told."""
    for values in FORGETTING:
        assert "KAFKA_BOOTSTRAP_SERVERS" in chart.environment(values, "CronJob")


def test_ingress_leads_to_the_service_and_not_to_its_metrics() -> None:
    ingress = chart.one("ingress", "Ingress")["spec"]
    (rule,) = ingress["rules"]
    assert (rule["host"], ingress["ingressClassName"]) == ("routes.example.com", "traefik")
    paths = {each["path"]: each["backend"]["service"] for each in rule["http"]["paths"]}
    assert paths.keys() == {"/api", "/health", "/openapi.json"}
    service = chart.one("ingress", "Service")
    (port,) = service["spec"]["ports"]
    for backend in paths.values():
        assert backend == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}


def test_what_every_chart_lets_set_reaches_the_pod() -> None:
    pod = chart.pod("openshift")
    assert chart.one("openshift", "Deployment")["metadata"]["name"] == "routes"
    assert pod["metadata"]["labels"]["example.com/team"] == "platform"
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert chart.environment("openshift")["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    assert {"name": "authorities", "configMap": {"name": "authorities"}} in pod["spec"]["volumes"]
    mounts = {each["name"]: each["mountPath"] for each in chart.container("openshift")["volumeMounts"]}
    assert mounts["authorities"] == "/etc/authorities"
    service = chart.one("autoscaled", "Service")["spec"]
    assert (service["externalTrafficPolicy"], service["loadBalancerSourceRanges"]) == (
        "Local",
        ["10.0.0.0/8"],
    )


def test_migration_goes_past_the_pooler() -> None:
    server, job = chart.environment("pooler"), chart.environment("pooler", "Job")
    assert (server["DB_HOST"], server["DB_PORT"]) == ("pgbouncer.databases", "6432")
    assert (job["DB_HOST"], job["DB_PORT"]) == ("postgres.databases", "5432")


@pytest.mark.parametrize("values", ["embedded", "development"])
def test_sqlite_has_one_pod_and_its_volume(values: str) -> None:
    spec = chart.one(values, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    environment = chart.environment(values)
    assert environment["API_WORKERS"] == "1"
    volumes = {volume["name"]: volume for volume in spec["template"]["spec"]["volumes"]}
    claim = volumes["data"]["persistentVolumeClaim"]["claimName"]
    mounts = {mount["name"]: mount["mountPath"] for mount in chart.container(values)["volumeMounts"]}
    assert environment["DB_PATH"].startswith(mounts["data"])
    if values == "development":
        assert claim == "playground"
    else:
        assert one_claim(values)["metadata"]["name"] == claim
    assert not chart.kinds(values) & {"Job", "HorizontalPodAutoscaler", "PodDisruptionBudget"}


def one_claim(values: str) -> chart.Manifest:
    return chart.one(values, "PersistentVolumeClaim")


def test_removing_the_release_leaves_the_routes() -> None:
    assert one_claim("embedded")["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_replicas_are_the_autoscaler_s_where_there_is_one() -> None:
    assert "replicas" not in chart.one("autoscaled", "Deployment")["spec"]
    scaler = chart.one("autoscaled", "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == chart.one("autoscaled", "Deployment")["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 12)
    assert chart.one("production", "Deployment")["spec"]["replicas"] == 3


def test_limits_are_shared_by_as_many_nodes_as_there_are() -> None:
    assert chart.environment("production")["LIMIT_NODES"] == "3"


def test_no_upgrade_takes_a_pod_away_before_another_is_ready() -> None:
    strategy = chart.one("production", "Deployment")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert chart.one("production", "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("values", VALUES)
def test_service_leads_to_the_servers_alone(values: str) -> None:
    service = chart.one(values, "Service")["spec"]
    selector = service["selector"].items()
    labels = chart.pod(values)["metadata"]["labels"]
    assert selector <= labels.items()
    assert chart.one(values, "Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,) = service["ports"]
    assert [port["targetPort"]] == [each["name"] for each in chart.container(values)["ports"]]
    for kind in {"Job", "CronJob"} & chart.kinds(values):
        assert not selector <= chart.pod(values, kind)["metadata"]["labels"].items()


def test_network_is_closed_but_for_who_is_named() -> None:
    policy = chart.one("production", "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (entrance,) = policy["ingress"]
    assert len(entrance["from"]) == 2
    assert entrance["ports"] == [{"protocol": "TCP", "port": 8000}]
    dns, *others = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert [rule["ports"][0]["port"] for rule in others] == [5432, 6379, 9093, 4318]
    for kind in chart.WITH_A_POD:
        assert (
            policy["podSelector"]["matchLabels"].items()
            <= chart.pod("production", kind)["metadata"]["labels"].items()
        )


def test_scrapes_show_a_key_and_are_named_as_the_rules_expect() -> None:
    spec = chart.one("production", "ServiceMonitor")["spec"]
    (endpoint,) = spec["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "traffic-manager-metrics", "key": "key"}
    assert (endpoint["scheme"], endpoint["path"]) == ("https", "/metrics")
    labels = chart.one("production", "Service")["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert "traffic-manager" in labels[spec["jobLabel"]]
    assert "authorization" not in chart.one("by-hand", "ServiceMonitor")["spec"]["endpoints"][0]


def test_file_of_opentelemetry_has_no_name_of_ours() -> None:
    """Its library reads the certificate itself; the server reads the headers, which are a secret."""
    environment = chart.environment("production")
    assert {"OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_HEADERS_FILE"} <= environment.keys()


def test_large_numbers_are_written_out() -> None:
    environment = chart.environment("production")
    assert environment["MIRROR_MAX_ROUTES"] == "2000000"
    assert environment["REDIS_SOCKET_TIMEOUT"] == "0.05"


@pytest.mark.parametrize(
    ("values", "given", "named"),
    [
        ("postgres", ["settings.DB_HOSTT=x"], "DB_HOSTT"),
        ("postgres", ["settings.DB_PASSWORD=x"], "DB_PASSWORD"),
        ("postgres", ["settings.OTEL_EXPORTER_OTLP_HEADERS=x"], "OTEL_EXPORTER_OTLP_HEADERS"),
        ("postgres", ["settings.API_PORT=9000"], "API_PORT"),
        ("postgres", ["replicas=0"], "replicas"),
        ("postgres", ["replica=3"], "replica"),
        ("postgres", ["settings.DB_HOST="], "settings.DB_HOST"),
        ("development", ["settings.ENVIRONMENT=production"], "files.AUTH_PEPPER"),
        ("postgres", ["files.AUTH_PEPPER.configMap=x"], "AUTH_PEPPER"),
        ("postgres", ["settings.ENVIRONMENT=development"], "settings.API_HOST"),
        ("postgres", ["settings.ENVIRONMENT=prod"], "ENVIRONMENT"),
        ("postgres", ["files.TLS_CERT_FILE.secret=x,files.TLS_CERT_FILE.key=y"], "TLS_KEY_FILE"),
        ("postgres", ["image.digest=latest"], "digest"),
        ("by-hand", ["settings.AUTH_METRICS=required"], "monitoring.key"),
        ("pooler", ["settings.TLS_CLIENT_AUTH=required"], "settings.TLS_CLIENT_AUTH"),
        ("embedded", ["settings.DB_HOST=x"], "embedded.enabled"),
        ("embedded", ["autoscaling.enabled=true"], "autoscaling.enabled"),
        ("autoscaled", ["autoscaling.minReplicas=20"], "autoscaling.minReplicas"),
        ("ingress", ["ingress.hosts=null"], "ingress.hosts"),
        ("ingress", ["settings.API_TRUSTED_PROXIES="], "settings.API_TRUSTED_PROXIES"),
        ("ingress", ["ingress.host=x"], "host"),
        ("postgres", ["retention.schedule=daily"], "schedule"),
        ("postgres", ["extraEnv[0].name=DB_PASSWORD"], "extraEnv"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(values: str, given: list[str], named: str) -> None:
    assert named in chart.refusal(values, *given)


def test_package_has_the_rules_and_no_values_of_tests(tmp_path: Path) -> None:
    assert chart.helm("package", CHART, "--destination", tmp_path).returncode == 0
    (package,) = tmp_path.glob("*.tgz")
    listed = subprocess.run(["tar", "-tf", package], capture_output=True, text=True, check=True).stdout
    assert "rules/alerts.yml" in listed
    assert "values.schema.json" in listed
    assert "/ci/" not in listed


def test_notes_say_how_to_make_the_first_key(tmp_path: Path) -> None:
    # Helm shows notes to whoever installs into a cluster; as a manifest it renders them without one.
    copy = tmp_path / "chart"
    shutil.copytree(CHART, copy)
    notes = (copy / "templates" / "NOTES.txt").read_text()
    (copy / "templates" / "notes.yaml").write_text(f"kind: Notes\ntext: |\n{textwrap.indent(notes, '  ')}")
    shown = ["--show-only", "templates/notes.yaml", "--values", str(VALUES["embedded"])]
    done = chart.helm("template", "tm", copy, "--kube-version", chart.NEWEST, *shown)
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)["text"]
    assert f"exec deploy/{NAME} -- traffic-manager keys create --role admin" in told


def test_command_of_the_pod_is_ready_by_its_probes_and_ends_within_its_grace(tmp_path: Path) -> None:
    """The container's own command and variables, on this machine: only folders and the port are others."""
    here = {value: _here(value, tmp_path) for value in chart.environment("embedded").values()}
    settings = {name: here[value] for name, value in chart.environment("embedded").items()}
    settings |= {"DB_PATH": str(tmp_path / "routes.db"), "DRAIN_SECONDS": "1"}
    assert chart.container("embedded")["command"] == ["traffic-manager", "serve"]
    with Node(tmp_path, {name: settings[name] for name in settings if name != "API_PORT"}) as node:
        started(node)
        with node.client(timeout_s=30.0) as client:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = chart.container("embedded")[probe]["httpGet"]["path"]
                assert client.get(path).status_code == 200, path
        assert node.stop(timeout_s=1 + AFTER_DRAIN_S) == 0


def test_documented_sets_of_values_are_all_there() -> None:
    page = (CHART.parents[1] / "docs" / "deployment.md").read_text()
    assert re.findall(r"`ci/([\w-]+)-values\.yaml`", page) == list(VALUES)
