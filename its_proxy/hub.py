"""The Hugging Face Hub as a source of manifests: a few small text files of one commit, never weights.

Needs the extra `[hub]`. Endpoint, cache and token are huggingface_hub's own (HF_ENDPOINT, HF_HOME, HF_TOKEN).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.checkpoint import MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES
from its_proxy.codesign.errors import ConfigError, ItsError, ManifestError, UpstreamUnreachable
from its_proxy.codesign.manifest import FILE_NAME
from its_proxy.source import MAX_PROMPT_BYTES, MAX_PROMPT_FILES

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9._/-]{{0,95}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a manifest and a pool are written in; a pair that calls some weight file its pool fetches nothing.
_FETCHED_SUFFIXES = (".json", ".jsonl")


def repository_of(root: str) -> tuple[str, str] | None:
    """`org/name` or `org/name@revision` -> (repository, revision), by default `main`; None for anything else."""
    found = _REPOSITORY.fullmatch(root)
    if found is None or ".." in root or "--" in found[1]:
        return None
    return found[1], found[2] or "main"


@dataclass(frozen=True, slots=True)
class Hub:
    """Where to fetch from; `endpoint` and `cache` are huggingface_hub's own settings unless given here.

    Raises ConfigError where the extra is not installed.
    """

    endpoint: str | None = None
    cache: Path | None = None
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        _library()

    def snapshot(self, repository: str, revision: str) -> "Snapshot | None":
        """The revision's commit, pinned; None where the repository has neither manifest nor config.json.

        Blocks. Raises ManifestError for what is refused or not there (NotOnHub: no such repository),
        UpstreamUnreachable where the Hub cannot be asked now and the cache does not know either.
        """
        for name, max_bytes in ((FILE_NAME, MAX_MANIFEST_BYTES), ("config.json", MAX_CONFIG_BYTES)):
            if (path := self.fetch(repository, name, revision, max_bytes)) is not None:
                # huggingface_hub's cache: snapshots/COMMIT/NAME
                return Snapshot(self, repository, path.parent.name)
        return None

    def fetch(self, repository: str, name: str, revision: str, max_bytes: int) -> Path | None:
        """The file in huggingface_hub's cache, fetched unless it is there; None if there is none."""
        hub = _library()
        with _translated(repository):
            # A commit never changes, so the cache's word is enough.
            known = self._cached(repository, name, revision) if _COMMIT.fullmatch(revision) else None
            if known is None:
                known = self._check_size(repository, name, revision, max_bytes)
            if known is not None:
                return known.path
            try:
                path = hub.hf_hub_download(
                    repository, name, revision=revision, endpoint=self.endpoint, cache_dir=self.cache,
                    etag_timeout=self.timeout_s,
                )  # fmt: skip
            except hub.errors.EntryNotFoundError:
                return None
            return Path(path)

    def _check_size(self, repository: str, name: str, revision: str, max_bytes: int) -> "_Cached | None":
        """Raises ManifestError for a file that is not worth fetching; answers from the cache where the Hub does not."""
        hub = _library()
        refusals: tuple[type[Exception], ...] = (
            hub.errors.RepositoryNotFoundError,
            hub.errors.RevisionNotFoundError,
            hub.errors.HFValidationError,
        )
        try:
            url = hub.hf_hub_url(repository, name, revision=revision, endpoint=self.endpoint)
            size = hub.get_hf_file_metadata(url, timeout=self.timeout_s, endpoint=self.endpoint).size
        except hub.errors.EntryNotFoundError:
            return None  # the download will say so again, and note it in the cache
        except refusals:
            raise
        except Exception:  # whatever its HTTP client raises where the Hub does not answer
            known = self._cached(repository, name, revision)
            if known is None:
                raise
            return known
        if size is None or size > max_bytes:
            raise ManifestError(f"{repository}/{name} is larger than {max_bytes} bytes")
        return None

    def _cached(self, repository: str, name: str, revision: str) -> "_Cached | None":
        """What the cache knows of the file; None where it knows nothing."""
        hub = _library()
        found = hub.try_to_load_from_cache(repository, name, cache_dir=self.cache, revision=revision)
        if found is None:
            return None
        return _Cached(Path(found) if isinstance(found, str) else None)

    def sizes_in(self, repository: str, folder: str, commit: str) -> dict[str, int]:
        """{path: bytes} of the files below a folder; empty if there is none."""
        hub = _library()
        with _translated(repository):
            try:
                tree = hub.HfApi(endpoint=self.endpoint).list_repo_tree(repository, folder, revision=commit)
                return {entry.path: entry.size for entry in tree if isinstance(entry, hub.hf_api.RepoFile)}
            except hub.errors.EntryNotFoundError:
                return {}


@dataclass(frozen=True, slots=True)
class _Cached:
    """A file in the cache, or the knowledge that there is none."""

    path: Path | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a repository, as a source of the few files that a manifest needs."""

    hub: Hub
    repository: str
    commit: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:8]}"

    def read(self, name: str, max_bytes: int) -> bytes | None:
        if name == "chat_template.jinja":
            return None  # the handshake compares what the live server's own template renders
        if not name.endswith(_FETCHED_SUFFIXES):
            raise ManifestError(f"{self}/{name} is not fetched from the Hub", hint=f"only {_FETCHED_SUFFIXES} are")
        return self._read(name, max_bytes)

    def read_folder(self, name: str) -> Mapping[str, bytes] | None:
        sizes = self.hub.sizes_in(self.repository, name.rstrip("/"), self.commit)
        if len(sizes) > MAX_PROMPT_FILES or sum(sizes.values()) > MAX_PROMPT_BYTES:
            hint = "download the checkpoint, and name its folder"
            raise ManifestError(f"{self}/{name} is too large to be fetched from the Hub", hint=hint)
        return {path.rpartition("/")[2]: self._read(path, MAX_PROMPT_BYTES) or b"" for path in sizes} or None

    def _read(self, name: str, max_bytes: int) -> bytes | None:
        path = self.hub.fetch(self.repository, name, self.commit, max_bytes)
        if path is None:
            return None
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ManifestError(f"{self}/{name} is larger than {max_bytes} bytes")
        return data


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.hf_api
    except ImportError:
        raise ConfigError("manifests on the Hub need huggingface_hub", hint="pip install 'its-proxy[hub]'") from None
    return huggingface_hub


@contextmanager
def _translated(repository: str) -> Iterator[None]:
    """Turns huggingface_hub's errors into ours, without their texts of many lines."""
    errors = _library().errors
    try:
        yield
    except ItsError:
        raise
    except errors.GatedRepoError:
        raise ManifestError(f"{repository} is gated on the Hub", hint="set HF_TOKEN to a token with access") from None
    except errors.RepositoryNotFoundError:
        raise NotOnHub(f"the Hub knows no {repository}, or wants HF_TOKEN for it") from None
    except errors.RevisionNotFoundError:
        raise ManifestError(f"{repository} has no such revision on the Hub") from None
    except errors.HFValidationError:
        raise NotOnHub(f"{repository} is no name of the Hub") from None
    except errors.OfflineModeIsEnabled:
        raise UpstreamUnreachable(f"{repository} is not in the Hub's cache", hint="HF_HUB_OFFLINE is set") from None
    except errors.HfHubHTTPError as error:
        raise UpstreamUnreachable(f"the Hub answered {error.response.status_code} for {repository}") from None
    except Exception as error:  # whatever its HTTP client raises: nothing of it may end a server
        raise UpstreamUnreachable(f"the Hub cannot be asked for {repository}", hint=type(error).__name__) from None


class NotOnHub(ManifestError):
    """There is no such repository, as far as this token sees."""
