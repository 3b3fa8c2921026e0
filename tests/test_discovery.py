"""Discovery: manifests are found by each card's own root, inside the operator's folders or on the Hub he allows."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from its_proxy import hub as hub_module
from its_proxy.bundle import bundle_of
from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError, DigestMismatch, ManifestError, UpstreamUnreachable
from its_proxy.codesign.personas import Persona, pool_jsonl
from its_proxy.codesign.taxonomy import GENERAL, NAMES
from its_proxy.discovery import Found, discover
from its_proxy.hub import Hub, repository_of
from tests.command import ROOT
from tests.hub_server import HubServer, hub_server
from tests.serving import manifest, write_checkpoint

POOL = pool_jsonl([Persona(f"You know {domain} well.", domain) for domain in (*NAMES, GENERAL)])


def card(name: str, root: object, parent: str | None = None) -> dict[str, Any]:
    return {"id": name, "object": "model", "root": root, "parent": parent}


async def found(root: object, *roots: Path, hub: Hub | None = None) -> Found:
    """What is found for one model of that root; its name says nothing."""
    return (await discover([card("model", root)], roots=roots, hub=hub))["model"]


# -- folders -----------------------------------------------------------------------------------------------------------


async def test_a_root_inside_of_an_operators_folder_is_opened(tmp_path):
    folder = write_checkpoint(tmp_path / "models" / "qwen", manifest("random"))
    seen = await found(str(folder), tmp_path / "models")
    assert seen.checkpoint is not None
    assert seen.checkpoint.serve.strategy.name == "random"
    assert seen.checkpoint.folder == folder
    assert (seen.error, seen.commit) == (None, None)
    assert (await found(str(folder), tmp_path / "other", tmp_path / "models")).checkpoint is not None
    assert (await found(str(folder), folder)).checkpoint is not None


@pytest.mark.parametrize("model", ["..", "", ".", "models/../outside", "models/gone"])
async def test_a_root_outside_of_them_or_nowhere_is_passed_through(tmp_path, model):
    write_checkpoint(tmp_path / "outside", manifest("random"))
    (tmp_path / "models").mkdir()
    seen = await found(f"{tmp_path}/{model}", tmp_path / "models")
    assert (seen.checkpoint, seen.error) == (None, None)
    assert "outside of the folders" in seen.reason or "not there" in seen.reason


async def test_without_folders_nothing_is_opened(tmp_path):
    folder = write_checkpoint(tmp_path, manifest("random"))
    assert (await found(str(folder))).checkpoint is None


async def test_a_link_that_leads_out_is_not_followed_and_one_that_stays_is(tmp_path):
    outside = write_checkpoint(tmp_path / "outside", manifest("random"))
    inside = write_checkpoint(tmp_path / "models" / "v1", manifest("random"))
    (tmp_path / "models" / "escape").symlink_to(outside)
    (tmp_path / "models" / "latest").symlink_to(inside)
    assert (await found(str(tmp_path / "models" / "escape"), tmp_path / "models")).checkpoint is None
    seen = await found(str(tmp_path / "models" / "latest"), tmp_path / "models")
    assert seen.checkpoint is not None
    assert seen.checkpoint.folder == inside


async def test_a_link_into_the_folders_from_elsewhere_is_not_looked_at(tmp_path):
    """What lies outside is not even asked where it leads."""
    inside = write_checkpoint(tmp_path / "models" / "v1", manifest("random"))
    (tmp_path / "elsewhere").symlink_to(inside)
    assert "outside of the folders" in (await found(str(tmp_path / "elsewhere"), tmp_path / "models")).reason


async def test_an_operators_folder_may_itself_be_a_link(tmp_path):
    write_checkpoint(tmp_path / "disk" / "qwen", manifest("random"))
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    for root in (tmp_path / "models" / "qwen", tmp_path / "disk" / "qwen"):
        assert (await found(str(root), tmp_path / "models")).checkpoint is not None


async def test_a_root_that_is_a_prefix_of_a_folders_name_is_outside(tmp_path):
    write_checkpoint(tmp_path / "models-private" / "qwen", manifest("random"))
    (tmp_path / "models").mkdir()
    assert (await found(str(tmp_path / "models-private" / "qwen"), tmp_path / "models")).checkpoint is None


@pytest.mark.parametrize(
    "root",
    [None, "", 7, [], {}, True, "/\0", "/" + "a" * 5000, "/" + "a/" * 1500, "./tiny", "tiny", "../tiny", "~/tiny", "~",
     "a/b/c", "$HOME/x", "C:\\models", "file:///etc", "-", "/models/\ud800"],
)  # fmt: skip
async def test_a_root_that_means_nothing_here_is_passed_through(tmp_path, monkeypatch, root):
    write_checkpoint(tmp_path / "tiny", manifest("random"))
    monkeypatch.chdir(tmp_path)
    seen = await found(root, tmp_path)
    assert (seen.checkpoint, seen.error) == (None, None)
    assert seen.reason


async def test_the_name_of_a_model_opens_nothing(tmp_path):
    write_checkpoint(tmp_path / "qwen", manifest("random"))
    cards = [card("qwen", None), card(str(tmp_path / "qwen"), "./qwen"), card("../qwen", str(tmp_path / "gone"))]
    seen = await discover(cards, roots=[tmp_path], hub=None)
    assert [one.checkpoint for one in seen.values()] == [None] * 3


async def test_odd_cards_are_left_out(tmp_path):
    folder = write_checkpoint(tmp_path / "a", manifest("random"))
    seen = await discover([{}, {"id": 7}, {"id": None}, card("good", str(folder))], roots=[tmp_path], hub=None)
    assert list(seen) == ["good"]
    assert await discover([], roots=[], hub=None) == {}


async def test_one_broken_manifest_hides_no_other(tmp_path):
    write_checkpoint(tmp_path / "good", manifest("random"))
    write_checkpoint(tmp_path / "broken", manifest(schema_version=2))
    (tmp_path / "pointer").mkdir()
    (tmp_path / "pointer" / "config.json").write_text('{"its": {"pair_id": "x"}}')
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").touch()
    names = ("good", "broken", "pointer", "plain", "file")
    seen = await discover([card(name, str(tmp_path / name)) for name in names], roots=[tmp_path], hub=None)
    assert {name: (one.checkpoint is not None, type(one.error)) for name, one in seen.items()} == {
        "good": (True, type(None)),
        "broken": (False, type(seen["broken"].error)),
        "pointer": (False, ManifestError),
        "plain": (False, type(None)),
        "file": (False, type(None)),
    }
    assert isinstance(seen["broken"].error, ManifestError)
    assert not seen["broken"].error.is_retryable
    assert "its.json is missing" in seen["pointer"].reason


async def test_models_that_are_known_are_not_looked_at_again(tmp_path):
    folder = write_checkpoint(tmp_path / "a", manifest("random"))
    first = await discover([card("one", str(folder))], roots=[tmp_path], hub=None)
    (folder / "its.json").write_text("{}")
    again = await discover(
        [card("one", str(folder)), card("two", str(folder))], roots=[tmp_path], hub=None, known=first
    )
    assert again["one"] is first["one"]
    assert again["two"].error is not None


# -- adapters ----------------------------------------------------------------------------------------------------------


async def test_an_adapter_is_opened_by_its_own_root(tmp_path):
    base = write_checkpoint(tmp_path / "base", manifest("random"))
    adapter = write_checkpoint(tmp_path / "adapter", manifest("similar"))
    (adapter / "adapter_config.json").write_text("{}")
    cards = [card("base", str(base)), card("lora", str(adapter), parent="base")]
    seen = await discover(cards, roots=[tmp_path], hub=None)
    strategies = {name: one.checkpoint.serve.strategy.name for name, one in seen.items() if one.checkpoint}
    assert strategies == {"base": "random", "lora": "similar"}


@pytest.mark.parametrize("root", ["base", "base/", "./base", "link", None])
async def test_an_adapter_inherits_nothing(tmp_path, root):
    """Not from its parent's folder either, where a server names that as the adapter's own."""
    base = write_checkpoint(tmp_path / "base", manifest("random"))
    (tmp_path / "link").symlink_to(base)
    cards = [card("base", str(base)), card("lora", root and f"{tmp_path}/{root}", parent="base")]
    seen = await discover(cards, roots=[tmp_path], hub=None)
    assert seen["base"].checkpoint is not None
    assert (seen["lora"].checkpoint, seen["lora"].error) == (None, None)


async def test_an_adapter_without_a_manifest_is_passed_through(tmp_path):
    base = write_checkpoint(tmp_path / "base", manifest("random"))
    (base / "lora").mkdir()
    cards = [card("base", str(base)), card("lora", str(base / "lora"), parent="base")]
    assert (await discover(cards, roots=[tmp_path], hub=None))["lora"].checkpoint is None


# -- the Hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def server(monkeypatch) -> AsyncIterator[HubServer]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    async with hub_server() as hub:
        yield hub


def at(server: HubServer, folder: Path) -> Hub:
    return Hub(server.url, folder / "hub-cache", timeout_s=5)


def files(strategy: str = "random", *, pool: bytes | None = None, **fields: Any) -> dict[str, bytes]:
    """A repository of a trained checkpoint."""
    document = manifest(strategy, **fields)
    more = {}
    if pool is not None:
        document["probes"] = []
        personas: dict[str, Any] = {"source": "pool", "file": "its-personas.jsonl", "sha256": sha256(pool).hexdigest()}
        personas |= fields.pop("personas", {})
        for side in document["pair"].values():
            side["personas"] = personas
        more["its-personas.jsonl"] = pool
    return {
        "config.json": b'{"model_type": "qwen2"}',
        "its.json": json.dumps(document).encode(),
        "model.safetensors": b"w" * 100_000,
        "pytorch_model.bin": b"w" * 100_000,
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        **more,
    }


async def test_only_manifest_pool_and_config_are_fetched_never_weights(tmp_path, server):
    commit = server.repository("org/qwen").push(files(pool=POOL))
    seen = await found("org/qwen", hub=at(server, tmp_path))
    assert seen.checkpoint is not None, seen
    assert seen.checkpoint.serve.pool is not None
    assert (seen.commit, seen.checkpoint.folder) == (commit, None)
    assert f"org/qwen@{commit[:8]}" in seen.reason
    assert server.fetched() == {"its.json", "config.json", "its-personas.jsonl"}
    assert not any(name in line for line in server.log for name in ("safetensors", ".bin", "tokenizer", "jinja"))
    assert server.bytes_sent < 50_000


async def test_a_pinned_commit_or_branch_is_what_is_read(tmp_path, server):
    repository = server.repository("org/qwen")
    first, second = repository.push(files("random")), repository.push(files("similar"))
    repository.push(files("none"), branch="v1.0")
    hub = at(server, tmp_path)
    strategies = {}
    for root in ("org/qwen", f"org/qwen@{first}", f"org/qwen@{second}", "org/qwen@v1.0"):
        seen = await found(root, hub=hub)
        assert seen.checkpoint is not None
        assert seen.commit in repository.commits
        strategies[root] = seen.checkpoint.serve.strategy.name
    assert list(strategies.values()) == ["similar", "random", "similar", "none"]


async def test_all_files_are_of_one_commit_even_if_the_branch_moves_meanwhile(tmp_path, server):
    repository = server.repository("org/qwen")
    first = repository.push(files(pool=POOL))
    read_pool = hub_module.Snapshot.read
    moved = []

    def read(self: hub_module.Snapshot, name: str, max_bytes: int) -> bytes | None:
        if not moved:
            moved.append(repository.push(files(pool=POOL.replace(b"You", b"They"))))
        return read_pool(self, name, max_bytes)

    hub_module.Snapshot.read = read  # type: ignore[method-assign]
    try:
        seen = await found("org/qwen", hub=at(server, tmp_path))
    finally:
        hub_module.Snapshot.read = read_pool  # type: ignore[method-assign]
    assert (seen.commit, seen.error) == (first, None)
    assert moved != [first]


async def test_what_was_fetched_is_served_from_the_cache_while_the_hub_is_down(tmp_path, server):
    commit = server.repository("org/qwen").push(files(pool=POOL))
    server.repository("org/plain").push({"config.json": b"{}"})
    hub = at(server, tmp_path)
    assert (await found("org/qwen", hub=hub)).checkpoint is not None
    assert (await found("org/plain", hub=hub)).checkpoint is None
    gone = Hub("http://127.0.0.1:9", hub.cache, timeout_s=1)
    for root in ("org/qwen", f"org/qwen@{commit}"):
        seen = await found(root, hub=gone)
        assert seen.checkpoint is not None, seen
    seen = await found("org/plain", hub=gone)
    assert (seen.checkpoint, seen.error) == (None, None)


async def test_a_hub_that_does_not_answer_leaves_the_model_pending(tmp_path, server):
    seen = await found("org/qwen", hub=Hub("http://127.0.0.1:9", tmp_path / "cache", timeout_s=1))
    assert isinstance(seen.error, UpstreamUnreachable)
    assert seen.error.is_retryable
    server.repository("org/down").status = 500
    seen = await found("org/down", hub=at(server, tmp_path))
    assert isinstance(seen.error, UpstreamUnreachable)


async def test_a_repository_without_manifest_or_not_there_is_passed_through(tmp_path, server):
    server.repository("org/plain").push({"config.json": b"{}", "model.safetensors": b"w"})
    server.repository("org/adapter").push({"adapter_config.json": b"{}"})
    for root in ("org/plain", "org/adapter", "org/nobody"):
        seen = await found(root, hub=at(server, tmp_path))
        assert (seen.checkpoint, seen.error) == (None, None), root
    assert server.fetched() == {"config.json"}


async def test_a_gated_repository_or_an_unknown_revision_is_refused(tmp_path, server):
    server.repository("org/gated").status, server.repository("org/gated").code = 403, "GatedRepo"
    server.repository("org/qwen").push(files())
    for root, words in (("org/gated", "HF_TOKEN"), ("org/qwen@v9", "no such revision")):
        seen = await found(root, hub=at(server, tmp_path))
        assert isinstance(seen.error, ManifestError)
        assert words in seen.reason
        assert "\n" not in seen.reason


async def test_a_pointer_without_its_manifest_is_refused_there_too(tmp_path, server):
    server.repository("org/qwen").push({"config.json": b'{"its": {"schema_version": 1, "pair_id": "x"}}'})
    seen = await found("org/qwen", hub=at(server, tmp_path))
    assert "its.json is missing" in seen.reason
    assert seen.error is not None


async def test_a_swapped_pool_is_refused(tmp_path, server):
    swapped = {**files(pool=POOL), "its-personas.jsonl": POOL.replace(b"You", b"They")}
    server.repository("org/qwen").push(swapped)
    assert isinstance((await found("org/qwen", hub=at(server, tmp_path))).error, DigestMismatch)


async def test_a_pool_that_is_a_weight_file_is_not_fetched(tmp_path, server):
    document = json.loads(files(pool=POOL)["its.json"])
    for side in document["pair"].values():
        side["personas"]["file"] = "model.safetensors"
    server.repository("org/qwen").push({**files(), "its.json": json.dumps(document).encode()})
    seen = await found("org/qwen", hub=at(server, tmp_path))
    assert "is not fetched from the Hub" in seen.reason
    assert "model.safetensors" not in server.fetched()


async def test_a_file_that_the_hub_says_is_huge_is_not_fetched(tmp_path, server):
    server.repository("org/qwen").push(files())
    server.announced_bytes["its.json"] = 10**12
    seen = await found("org/qwen", hub=at(server, tmp_path))
    assert "its.json is larger than" in seen.reason
    assert "its.json" not in server.fetched()


def prompted(prompts: dict[str, bytes]) -> dict[str, bytes]:
    from its_proxy.codesign.canonical import digest

    named = digest({name: sha256(data).hexdigest() for name, data in prompts.items()})
    written_by = {"model": "m", "prompts": {"folder": "its-persona-prompts/", "sha256": named}}
    repository = files(pool=POOL)
    document = json.loads(repository["its.json"])
    for side in document["pair"].values():
        side["personas"]["written_by"] = written_by
    repository["its.json"] = json.dumps(document).encode()
    return repository | {f"its-persona-prompts/{name}": data for name, data in prompts.items()}


async def test_small_prompts_are_fetched_and_checked_large_ones_refused(tmp_path, server):
    server.repository("org/small").push(prompted({"one.txt": b"Write.", "two.md": b"Again."}))
    server.repository("org/edited").push(prompted({"one.txt": b"Write."}) | {"its-persona-prompts/one.txt": b"No."})
    server.repository("org/large").push(prompted({"one.txt": b"w" * (2**20 + 1)}))
    hub = at(server, tmp_path)
    assert (await found("org/small", hub=hub)).checkpoint is not None
    assert isinstance((await found("org/edited", hub=hub)).error, DigestMismatch)
    assert "too large to be fetched" in (await found("org/large", hub=hub)).reason


async def test_an_adapter_on_the_hub_inherits_nothing_either(tmp_path, server):
    commit = server.repository("org/base").push(files("random"))
    server.repository("org/lora").push({**files("similar"), "adapter_config.json": b"{}"})
    cards = [
        card("base", "org/base"),
        card("lora", "org/lora", parent="base"),
        card("other", "org/base", parent="base"),
        card("pinned", f"org/base@{commit}", parent="another name of the base"),
    ]
    seen = await discover(cards, roots=[], hub=at(server, tmp_path))
    strategies = {name: one.checkpoint and one.checkpoint.serve.strategy.name for name, one in seen.items()}
    assert strategies == {"base": "random", "lora": "similar", "other": None, "pinned": None}


async def test_the_hub_is_asked_only_where_it_is_allowed(tmp_path, server):
    server.repository("org/qwen").push(files())
    seen = await found("org/qwen", tmp_path)
    assert (seen.checkpoint, server.log) == (None, [])
    assert "on the Hub, which is not asked here" in seen.reason


async def test_a_checkpoint_from_the_hub_can_be_bundled(tmp_path, server):
    server.repository("org/qwen").push(files(pool=POOL))
    seen = await found("org/qwen", hub=at(server, tmp_path))
    assert seen.checkpoint is not None
    (tmp_path / "b.json").write_bytes(bundle_of(seen.checkpoint.source, seen.checkpoint.manifest))
    assert open_checkpoint(tmp_path / "b.json").pair_id == seen.checkpoint.pair_id


async def test_the_endpoint_and_the_cache_are_huggingface_hubs_own(tmp_path, server):
    """In a process of its own: huggingface_hub reads its variables when it is imported."""
    commit = server.repository("org/qwen").push(files(pool=POOL))
    code = (
        "import asyncio\nfrom its_proxy.discovery import discover\nfrom its_proxy.hub import Hub\n"
        "found = asyncio.run(discover([{'id': 'm', 'root': 'org/qwen'}], roots=[], hub=Hub()))\n"
        "print(found['m'].commit, found['m'].checkpoint.serve.strategy.name)"
    )
    variables = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), env=os.environ | variables, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().split() == [commit, "random"]
    assert (tmp_path / "hub" / "models--org--qwen" / "snapshots" / commit / "its.json").exists()


async def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'its-proxy\[hub\]'"):
        Hub()
    folder = write_checkpoint(tmp_path, manifest("random"))
    assert (await found(str(folder), tmp_path)).checkpoint is not None, "folders need no extra"


@pytest.mark.parametrize(
    ("root", "named"),
    [
        ("org/name", ("org/name", "main")),
        ("Org-1/na.me_2@refs/pr/1", ("Org-1/na.me_2", "refs/pr/1")),
        ("org/name@" + "0" * 40, ("org/name", "0" * 40)),
        ("name", None),
        ("org/name/more", None),
        ("../name", None),
        ("org/..", None),
        ("org/name@../../x", None),
        ("org/name@", None),
        ("org/na--me", None),
        ("org/name\n", None),
        ("org /name", None),
        ("", None),
        ("models--org/name", None),
        ("x" * 97 + "/name", None),
    ],
)
def test_what_counts_as_a_name_on_the_hub(root, named):
    assert repository_of(root) == named
