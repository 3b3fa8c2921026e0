"""A real Prometheus with our configuration and rules asks a real its-proxy, and answers what the dashboard asks it."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
import yaml

from tests.real_deploy.test_files import as_grafana_asks
from tests.real_deploy.tools import BIN, DEPLOY
from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint

KEYS = {"TEAM_KEY": "team-key", "METRICS_KEY": "metrics-key"}
LOCKED = {"keys": [{"name": "team", "env": "TEAM_KEY"}, {"name": "metrics", "env": "METRICS_KEY", "rights": []}]}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@asynccontextmanager
async def prometheus(folder, target):
    """Its address; it asks `target` each second, with the key in a file as compose.yaml has it."""
    document = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [job] = document["scrape_configs"]
    job["authorization"]["credentials_file"] = "metrics_key"
    job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    (folder / "metrics_key").write_text(KEYS["METRICS_KEY"])
    (folder / "alerts.yml").write_bytes((DEPLOY / "prometheus/alerts.yml").read_bytes())
    address = f"127.0.0.1:{free_port()}"
    flags = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}")
    process = await asyncio.create_subprocess_exec(
        BIN / "prometheus", *flags, cwd=folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        await process.wait()


async def asked(http, url, **parameters):
    """What the API says, None while it does not answer yet."""
    try:
        async with http.get(url, params=parameters) as reply:
            return json.loads(await reply.read())["data"] if reply.status == 200 else None
    except aiohttp.ClientConnectionError:
        return None


async def until(http, url, is_so, **parameters):
    while (told := await asked(http, url, **parameters)) is None or not is_so(told):
        await asyncio.sleep(0.1)
    return told


def health_of(targets):
    return [(target["health"], target["lastError"]) for target in targets["activeTargets"]]


@pytest.mark.timeout(120)
async def test_it_gets_in_with_its_key_and_every_rule_and_query_is_answered(tmp_path):
    row = {"benchmark": "sums", "split": "test", "items": 9, "metric": "agreement", "value": 0.75}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random", evaluation=[row]))
    dashboard = json.loads((DEPLOY / "grafana/its-proxy.json").read_text("utf-8"))
    (tmp_path / "prometheus").mkdir()
    async with (
        serving_script(Say("\\boxed{7}"), checkpoint, environ=KEYS, **LOCKED) as (server, _),
        prometheus(tmp_path / "prometheus", server.url.split("/")[2]) as api,
        aiohttp.ClientSession() as http,
    ):
        assert (await server.ask(key=KEYS["TEAM_KEY"])).status == 200
        await until(http, f"{api}/targets", lambda told: health_of(told) == [("up", "")])
        rules = await until(
            http, f"{api}/rules", lambda told: all(r["health"] == "ok" for r in told["groups"][0]["rules"])
        )
        assert len(rules["groups"][0]["rules"]) == 17
        counted = 'its_proxy_votes_total{job="its-proxy",model="model"}'
        await until(http, f"{api}/query", lambda told: told["result"], query=counted)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                told = await asked(http, f"{api}/query", query=as_grafana_asks(target["expr"]))
                assert told is not None, target["expr"]
        level = await asked(http, f"{api}/query", query="its_proxy_evaluated_agreement_ratio")
        assert [result["value"][1] for result in level["result"]] == ["0.75"]


@pytest.mark.timeout(120)
async def test_with_another_key_it_is_told_down(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    locked = {"keys": [{"name": "team", "env": "TEAM_KEY"}]}
    (tmp_path / "prometheus").mkdir()
    async with (
        serving_script(Say("\\boxed{7}"), checkpoint, environ=KEYS, **locked) as (server, _),
        prometheus(tmp_path / "prometheus", server.url.split("/")[2]) as api,
        aiohttp.ClientSession() as http,
    ):
        told = await until(http, f"{api}/targets", lambda told: [h for h, _ in health_of(told)] == ["down"])
        assert "401" in health_of(told)[0][1]
