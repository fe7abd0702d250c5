"""`blsp fetch RECIPE`: downloads the base models of a recipe, for machines that will be offline.

Only the files that loading reads are taken, into the cache of the hub's own client, which keeps the
files that were whole when a download was cut off. How much it will be is told first, and where it
cannot work nothing is begun. A recipe enters; folders leave.
"""

import argparse
import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blsp.errors import InputError
from blsp.model.foundations import (
    LORA_CONFIG,
    find_cached,
    find_local,
    loaded_patterns,
    read_inner,
)
from blsp.recipe import Recipe, RecipeModel, load_recipe
from blsp.sft import TextRecipe
from blsp.train import find_recipe

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

AnyRecipe = Recipe | TextRecipe
Ask = Literal["always", "if needed", "never"]

_SECONDS_TO_ANSWER = 20.0


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A base model as a recipe names it."""

    what: str
    """`language model` or `Whisper`"""
    source: str
    """Folder, hub id, or openai-whisper `.pt` file."""
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class Download:
    """What the hub has of a base model, and what of it is not here."""

    base: BaseModel
    commit: str
    patterns: list[str]
    sizes: dict[str, int]
    """Bytes of every file that loading reads."""
    lacking: frozenset[str]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(self.sizes[name] for name in self.lacking)

    def line(self) -> str:
        """For a person."""
        told = f"{self.base.what} {self.base.source} ({self.commit[:8]}): "
        if not self.lacking:
            return f"{told}all {len(self.sizes)} files are here"
        return f"{told}{len(self.lacking)} of {len(self.sizes)} files, {describe_size(self.size)}"


class FetchError(InputError):
    """A base model that the hub does not give; the parts of the line are there for tables."""

    def __init__(self, base: BaseModel, *, expected: str, found: str, advice: str) -> None:
        super().__init__(f"{base.source}: expected {expected}, found {found}; {advice}")
        self.found = found
        self.advice = advice


def main(argv: Sequence[str]) -> int:
    """Download what a recipe needs."""
    parser = argparse.ArgumentParser(
        prog="blsp fetch", description="Download the base models of a recipe, to be offline later."
    )
    parser.add_argument("recipe", help="YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="model.llm=...")
    options = parser.parse_args(argv)
    fetch(read_recipe(options.recipe, options.overrides), report=print)
    return 0


def fetch(recipe: AnyRecipe, *, report: Callable[[str], None]) -> None:
    """Download the base models of a recipe; those that lie in folders stay there.

    Raises:
        InputError: one line on what cannot be had, before anything is downloaded.
    """
    downloads = []
    for base, found in look_up(recipe, ask="always"):
        if isinstance(found, InputError):
            raise found
        if isinstance(found, Path):
            report(f"{base.what} {base.source}: lies here already")
        else:
            report(found.line())
            downloads.append(found)
    check_room(downloads)
    for download in downloads:
        report(f"{download.base.what} {download.base.source}: {run_download(download)}")
    if downloads:
        report("all is here; with HF_HUB_OFFLINE=1 set, no host is asked from now on")


# --- what a recipe names, and where it is ---------------------------------------------------------


def read_recipe(name: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """A recipe of a run on speech or on text; the command in its header says which.

    Raises:
        InputError: there is none, or a value in it cannot work.
    """
    path = find_recipe(name)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if "\n# command: blsp sft" in text:
        return load_recipe(path, overrides, schema=TextRecipe)[0]
    return load_recipe(path, overrides)[0]


def look_up(
    recipe: AnyRecipe, *, ask: Ask
) -> Iterator[tuple[BaseModel, Path | Download | InputError]]:
    """Each base model of a recipe, with the folder it lies in, the download, or why there is none.

    Args:
        recipe: is not changed.
        ask: when to ask the hub; `always` is also for what is in the cache, where an older commit
            may be.
    """
    wanted = recipe.model
    named = [BaseModel(what="language model", source=wanted.llm, revision=wanted.llm_revision)]
    if isinstance(wanted, RecipeModel):
        whisper = BaseModel(what="Whisper", source=wanted.encoder, revision=wanted.encoder_revision)
        named.append(whisper)
    for base in named:
        following: BaseModel | None = base
        while following is not None:
            found = _look_for(following, ask)
            yield following, found
            following = _find_inner(following, found)


def _look_for(base: BaseModel, ask: Ask) -> Path | Download | InputError:
    try:
        local = find_base(base)
        if local is None and ask != "always":
            local = find_cached(base.source, base.revision)
        if local is None and ask == "never":
            return InputError(f"{base.source}: expected it here, found it nowhere; `blsp fetch`")
        return local or plan_download(base)
    except InputError as error:
        return error


def find_base(base: BaseModel) -> Path | None:
    """The folder or file of a base model that is a path; None for a hub id.

    Raises:
        InputError: it can only be a path, and nothing lies there.
    """
    path = Path(base.source)
    if base.what == "Whisper" and path.suffix == ".pt" and path.is_file():
        return path
    return find_local(base.source, what=base.what)


def _find_inner(base: BaseModel, found: Path | Download | InputError) -> BaseModel | None:
    """The base model of LoRA weights, which is needed too."""
    if base.what == "Whisper" or isinstance(found, InputError):
        return None
    if isinstance(found, Download):
        if LORA_CONFIG not in found.sizes:
            return None
        found = get_file(found, LORA_CONFIG).parent
    if not (found / LORA_CONFIG).is_file():
        return None
    source, revision = read_inner(found)
    return BaseModel(what=base.what, source=source, revision=revision)


# --- the hub --------------------------------------------------------------------------------------


def plan_download(base: BaseModel) -> Download:
    """Ask the hub what it has of a base model, and compare with the cache; nothing is written.

    Raises:
        FetchError: the hub cannot be reached, or does not give it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi()
    with _refusing(base):
        info = api.model_info(
            base.source,
            revision=base.revision,
            files_metadata=True,
            timeout=_SECONDS_TO_ANSWER,
        )
        if info.gated:  # the listing is public even then
            api.auth_check(base.source)
    files = {file.rfilename: file for file in info.siblings or ()}
    patterns = loaded_patterns(files.__contains__)
    wanted = set(filter_repo_objects(files, allow_patterns=patterns))
    commit = str(info.sha)
    lacking = {name for name in wanted if not _is_cached(base.source, commit, files[name])}
    return Download(
        base=base,
        commit=commit,
        patterns=patterns,
        sizes={name: files[name].size or 0 for name in wanted},
        lacking=frozenset(lacking),
    )


def _is_cached(source: str, commit: str, file: "RepoSibling") -> bool:
    """Whether a file is here at this commit, or its content from another one."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    if isinstance(try_to_load_from_cache(source, file.rfilename, revision=commit), str):
        return True
    content = file.lfs.sha256 if file.lfs else file.blob_id
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")
    return content is not None and (folder / "blobs" / content).is_file()


def check_room(downloads: Sequence[Download]) -> None:
    """Refuse what the disk of the cache has no room for.

    Raises:
        InputError: it has less.
    """
    needed = sum(download.size for download in downloads)
    folder = cache_folder()
    free = free_bytes(folder)
    if needed > free:
        raise InputError(
            f"{folder}: expected {describe_size(needed)} free to download to, found "
            f"{describe_size(free)}; free some, or set HF_HOME to a folder with room"
        )


def cache_folder() -> Path:
    """Where the hub's client keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that need not exist yet."""
    return shutil.disk_usage(nearest_folder(folder)).free


def nearest_folder(folder: Path) -> Path:
    """The folder itself, or the one above that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def get_file(download: Download, name: str) -> Path:
    """Download one small file, for a look into it before the rest."""
    from huggingface_hub import hf_hub_download

    with _refusing(download.base):
        return Path(hf_hub_download(download.base.source, name, revision=download.commit))


def run_download(download: Download) -> Path:
    """Download what is lacking; return the folder.

    Raises:
        FetchError: it broke off; what is whole stays.
    """
    from huggingface_hub import snapshot_download

    base = download.base
    with _refusing(base):
        # By the name the recipe has, not the commit: the client notes which commit that is.
        return Path(
            snapshot_download(base.source, revision=base.revision, allow_patterns=download.patterns)
        )


@contextmanager
def _refusing(base: BaseModel) -> Iterator[None]:
    """Turn what the hub's client raises into one line."""
    # By the client's name for it: which library speaks HTTP for the client changes.
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        XetDownloadError,
    )

    try:
        yield
    except (HTTPError, HFValidationError, XetDownloadError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _explain(base, error) from error


def _explain(base: BaseModel, error: Exception) -> FetchError:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    login = "`hf auth login`, or set HF_TOKEN to a token of yours"
    if isinstance(error, OfflineModeIsEnabled):
        expected, found = "a network to download it from", "HF_HUB_OFFLINE=1"
        advice = "unset it where there is a network"
    elif isinstance(error, GatedRepoError):
        expected, found = "access to it", "a gated repository and no access"
        advice = f"accept its licence at {constants.ENDPOINT}/{base.source}, then {login}"
    elif isinstance(error, RevisionNotFoundError):
        expected, found = f"the revision {base.revision}", "no such branch, tag or commit"
        advice = "check the revision"
    elif isinstance(error, RepositoryNotFoundError | HFValidationError):
        expected = f"a {base.what} folder or hub id"
        found = "neither a folder nor a repository of that name"
        advice = f"check the name; if it is private, {login}"
    elif isinstance(error, PermissionError):
        expected, found = "a cache that can be written to", str(error)
        advice = "set HF_HOME to a folder of yours"
    else:
        expected = f"an answer of {constants.ENDPOINT}"
        found = " ".join(str(error).split())[:200] or type(error).__name__
        advice = "check the network, or set HF_ENDPOINT to a mirror, and run this again"
    return FetchError(base, expected=expected, found=found, advice=advice)


def describe_size(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
