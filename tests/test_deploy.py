"""What is written to run elsewhere, checked as far as that goes here."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
BUILT_IN = {"up"}
WORDS = {
    "sum", "by", "on", "rate", "delta", "deriv", "changes", "histogram_quantile", "clamp_min", "le",
    "and", "route", "status", "kind", "instance", "arm", "job",
}  # fmt: skip


def rules():
    groups = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard():
    return json.loads((DEPLOY / "grafana/dashboards/lifelong.json").read_text())


def expressions():
    panels = dashboard()["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    found += [one["expr"] for one in dashboard()["annotations"]["list"]]
    return found + [rule["expr"] for rule in rules()]


def metrics_of(expression):
    """The metrics that an expression names."""
    plain = re.sub(r'"[^"]*"|\[[^\]]*\]|\{[^}]*\}', "", expression)
    return (
        set(re.findall(r"(?<![a-z0-9_.])[a-z_][a-z0-9_]*(?![a-z0-9_]*\()", plain))
        - WORDS
        - BUILT_IN
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The metrics of a real api, by name, with the labels of their series."""
    from lifelong.serve.api import Api
    from lifelong.serve.config import Config
    from lifelong.serve.startup import prepare

    folder = tmp_path_factory.mktemp("service")
    learner = (DEPLOY / "service/learner.py").read_text()
    (folder / "learner.py").write_text(learner)
    path = folder / "service.yaml"
    path.write_text("{learner: learner.py:learner, schema: {shape: [4], classes: 3}}")
    config = Config.read(path)
    prepare(config)
    api = Api(config)

    async def ask():
        transport = httpx.ASGITransport(api.app(), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.post("/predict", json={"x": [1, 2, 3, 4]})
            return (await client.get("/metrics")).text

    try:
        text = asyncio.run(ask())
    finally:
        api.close()
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        found |= (
            {name + end for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
        )
    return found


def test_every_metric_that_is_shown_or_alarms_is_exported(exported):
    assert expressions()
    for expression in expressions():
        for name in metrics_of(expression):
            assert name in exported, f"{name} in {expression}"
    assert {"lifelong_trainer_up", "lifelong_log_bytes"} <= exported
    assert metrics_of('sum by (le) (rate(no_such_total{a="b"}[5m]))') == {"no_such_total"}


def test_what_is_exported_is_shown(exported):
    shown = {name for expression in expressions() for name in metrics_of(expression)}
    ours = {name for name in exported if name.startswith("lifelong_")}
    ours = {name for name in ours if not name.endswith(("_created", "_bucket", "_sum", "_count"))}
    assert ours - shown == set()


def test_promtool_accepts_rules_and_queries(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: PromQL is not parsed here")
    path = tmp_path / "rules.yml"
    queries = [{"record": f"x:{n}", "expr": text} for n, text in enumerate(expressions())]
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": queries}]}))
    for file in (path, DEPLOY / "prometheus/rules.yml"):
        done = subprocess.run(
            [promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_says_what_to_do():
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "action"} <= rule["annotations"].keys()
        assert re.fullmatch(r"\d+[mh]", rule["for"])


def test_the_dashboard_is_one():
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) > 15
    sources = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    uids = {source["uid"] for source in sources["datasources"]}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["datasource"]["uid"] in uids


def test_the_composed_services_fit_together():
    made = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = made["services"]
    assert set(services) == {"lifelong", "prometheus", "grafana"}
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert all(name in made["secrets"] for name in service.get("secrets", []))
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in made["volumes"] or (DEPLOY / source).is_dir()
        assert ":latest" not in service.get("image", "")
    assert services["lifelong"]["read_only"] is True
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    [job] = scraped["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["lifelong:8000"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_key"


def test_the_composed_configuration_is_a_service(tmp_path):
    from lifelong.serve.config import Config

    config = Config.read(DEPLOY / "service/service.yaml")
    assert str(config.folder) == "/state"
    assert config.serve.host == "0.0.0.0"
    assert config.keys
    assert config.factory()().steps == 0


def test_the_image_runs_as_nobody_special_and_from_tested_versions():
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    steps = [word for word, _ in lines]
    users = [rest for word, rest in lines if word == "USER"]
    assert users == ["10001:10001"]
    assert {"HEALTHCHECK", "VOLUME", "STOPSIGNAL"} <= set(steps)
    for word, rest in lines:
        if word == "RUN" and "pip install" in rest:
            assert rest.count("pip install") == rest.count("-c constraints.txt")
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (DEPLOY.parent / source).exists()
    assert steps.index("USER") < steps.index("ENTRYPOINT")


def test_systemd_accepts_the_unit(tmp_path):
    text = (DEPLOY / "lifelong.service").read_text()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectory=lifelong"):
        assert line in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: the unit is not parsed here")
    path = tmp_path / "lifelong.service"
    path.write_text(text.replace("/opt/lifelong/bin/lifelong", shutil.which("true")))
    done = subprocess.run(
        [analyze, "verify", str(path)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "lifelong.service" in line]
    assert said == []
