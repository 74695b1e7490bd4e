"""A run folder: what a run was, how far it got, and what came out. Nothing in it is ever half written.

config.json     settings with the seed, versions
metrics.jsonl   one row per epoch
checkpoint.pt   weights, optimiser, random state
summary.json    the results; its presence means that the run is finished
figures/*.png
"""

import importlib.metadata
import io
import json
import math
import os
import platform
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vae import ranks


class RunError(Exception):
    """Something the user can put right; its text says what and how."""


@dataclass(frozen=True)
class RunOptions:
    """Where and how to run."""

    out: Path
    """The run folder."""
    resume: bool = False
    """Continue the run in --out, with its settings; finished parts are not run again."""
    seed: int = 0
    """Seed of the data, the initial weights and the training."""
    seeds: str = ""
    """Several seeds, like 0-9 or 0,3,7: one run for each, and intervals over them."""
    quick: bool = False
    """A small version that shows that everything works."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["float32", "mixed"] = "float32"
    """mixed: networks are trained in bfloat16 where the hardware has it, with float32 weights and losses."""

    def __post_init__(self) -> None:
        if self.seeds:
            parse_seeds(self.seeds)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RunError("--device cuda: torch sees no CUDA device here, use --device cpu")


def parse_seeds(text: str) -> list[int]:
    """Seeds from text: '0-2,7' is 0, 1, 2 and 7."""
    try:
        parts = [part.partition("-") for part in text.split(",")]
        seeds = [
            seed
            for first, dash, last in parts
            for seed in range(int(first), int(last if dash else first) + 1)
        ]
    except ValueError:
        seeds = []
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise RunError(f"--seeds {text} is not two or more different seeds: write them like 0-9 or 0,3,7")
    return seeds


def check_finite(config: Any) -> None:
    """Raises an error for a setting that is infinite, or no number at all."""
    for name, value in asdict(config).items():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise RunError(f"--{name.replace('_', '-')} {one} must be finite: give a number")


def check_resumable(options: RunOptions) -> None:
    """Raises an error where the folder to resume does not exist: its name may be mistyped. An empty one is of a run
    that was stopped early."""
    if options.resume and not options.out.exists():
        raise RunError(
            f"{options.out} holds no run to resume (no such folder): check --out, or drop --resume"
        )


class RunFolder:
    """The folder of a run, new or resumed: one in use, or made with other settings, is refused."""

    def __init__(self, config: Any):
        self.path = config.run.out
        self.figures = self.path / "figures"
        self._metrics = self.path / "metrics.jsonl"
        self._checkpoint = self.path / "checkpoint.pt"
        self._summary = self.path / "summary.json"
        refused = None
        if ranks.is_first():
            try:
                self._enter(config)
            except RunError as error:
                refused = str(error)
        if said := ranks.from_first(refused):
            raise RunError(said)

    def _enter(self, config: Any) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            present = {entry.name for entry in self.path.iterdir()}
        except OSError as error:
            raise RunError(f"--out {self.path} cannot be used ({error}): give another folder") from error
        if present and not config.run.resume:
            raise RunError(f"{self.path} is not empty: --resume continues a run, --out names another folder")
        if "config.json" in present:
            _check_same(self.path, config)
        elif present <= {"config.json.tmp"}:  # new, or left by a run that was stopped just here
            _write_json(self.path / "config.json", _content(config))
        else:
            raise RunError(f"{self.path} holds no run to resume (no config.json): check --out")

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results of a finished run, else None."""
        return _read_json(self._summary) if self._summary.exists() else None

    def finish(self, summary: dict[str, Any]) -> None:
        if ranks.is_first():
            _write_json(self._summary, summary)
        ranks.from_first(None)

    def rows(self) -> list[dict[str, float]]:
        try:
            return [json.loads(line) for line in self._metrics.read_text().splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self._metrics} is damaged ({error}): restore a copy") from error

    def log(self, row: dict[str, float]) -> None:
        if not ranks.is_first():
            return
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save_checkpoint(self, epoch: int, state: dict[str, Any]) -> None:
        """Keep `state`, reached after `epoch` epochs, together with the random state. Any number of processes can go on
        from there."""
        if not ranks.is_first():
            return
        random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        buffer = io.BytesIO()
        torch.save({"epoch": epoch, "random": random, **state}, buffer)
        # The rows must outlive a power failure if the checkpoint that counts them does.
        with self._metrics.open("a") as file:
            os.fsync(file.fileno())
        _write_atomically(self._checkpoint, buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, if any. Restores the random state, and drops the metrics of later epochs."""
        if not self._checkpoint.exists():
            if ranks.is_first():
                _write_atomically(self._metrics, b"")
            return None
        remedy = f"restore a copy, or delete {self._checkpoint} and --resume to train again from the start"
        try:
            # torch reads past flipped bits, the archive's checksums do not.
            with zipfile.ZipFile(self._checkpoint) as archive:
                if archive.testzip() is not None:
                    raise ValueError("a checksum does not match")
            state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            epoch, random = int(state.pop("epoch")), state.pop("random")
            torch.set_rng_state(random["cpu"])
            if ranks.world_size() == 1 or not random["cuda"]:
                torch.cuda.set_rng_state_all(random["cuda"])
            else:
                torch.cuda.set_rng_state(random["cuda"][0])  # that of the first rank
        except Exception as error:  # torch, zipfile and pickle each have their own kinds for a damaged file
            raise RunError(f"{self._checkpoint} is damaged ({error}): {remedy}") from error
        lines = self._metrics.read_bytes().splitlines(keepends=True) if self._metrics.exists() else []
        if len(lines) < epoch:
            raise RunError(f"{self._metrics} has only {len(lines)} of the {epoch} rows: {remedy}")
        if ranks.is_first():
            _write_atomically(self._metrics, b"".join(lines[:epoch]))
        return {"epoch": epoch, **state}


def stored_config(config_class: Any, options: RunOptions) -> Any:
    """The configuration that the run in `options.out` was started with; None if there is none to resume."""
    path = options.out / "config.json"
    if not options.resume or not path.exists():
        return None
    stored = _read_json(path)
    try:
        if stored["experiment"] != config_class.__name__:
            raise TypeError(f"it is of {stored['experiment']}")
        run = RunOptions(**stored["run"], out=options.out, resume=True)
        # JSON has lists where a configuration has tuples.
        settings = {n: tuple(v) if isinstance(v, list) else v for n, v in stored["settings"].items()}
        return config_class(**settings, run=run)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} does not fit {config_class.__name__} ({error}): give another --out"
        ) from error


def finished_runs(folders: Iterable[Path], config_class: Any) -> Iterator[tuple[Any, dict[str, float]]]:
    """Configuration and results of every run of one seed that is finished, anywhere within the folders.

    Runs of other experiments are passed over; one that is in several folders comes several times.
    """
    for folder in folders:
        for path in sorted(folder.rglob("summary.json")):
            config = path.with_name("config.json")
            stored = _read_json(config) if config.exists() else {}
            if stored.get("experiment") == config_class.__name__ and not stored["run"]["seeds"]:
                options = RunOptions(path.parent, resume=True)
                yield stored_config(config_class, options), _read_json(path)


def _content(config: Any) -> dict[str, Any]:
    """What config.json says: all that decides the result, so not where the run lives, and where its data lie."""
    settings = asdict(config)
    run = {name: value for name, value in settings.pop("run").items() if name not in ("out", "resume")}
    return {"experiment": type(config).__name__, "settings": settings, "run": run, "versions": _versions()}


def _check_same(path: Path, config: Any) -> None:
    """Everything must be as it was, but the data set may have moved. A setting that the run's version did not have yet
    is as it was at its default."""
    asked, stored = json.loads(json.dumps(_content(config))), _read_json(path / "config.json")
    if not all(isinstance(stored.get(group), dict) for group in ("settings", "run", "versions")):
        raise RunError(f"{path / 'config.json'} is damaged: restore a copy, or give another --out")
    defaults = json.loads(json.dumps({name: getattr(type(config), name, None) for name in asked["settings"]}))
    stored["settings"] = defaults | stored["settings"]
    for group in ("settings", "run"):
        for name, now in asked[group].items():
            if name != "data" and now != (before := stored[group].get(name)):
                flag = "--" + name.replace("_", "-")
                raise RunError(
                    f"{path} was started with {flag} {before}, not {now}: "
                    f"drop {flag} to continue it, or give another --out"
                )
    if asked["versions"] != stored["versions"]:
        warnings.warn(
            f"{path} was started with {stored['versions']} and continues with {asked['versions']}: "
            "the result may differ from an uninterrupted run",
            stacklevel=3,
        )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("vae-kernels", "torch", "lightning-fabric", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): restore a copy, or give another --out") from error


def _write_atomically(path: Path, content: bytes) -> None:
    """After a crash at any moment, `path` holds either all of `content` or what it held before."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
