"""Puts trained adapters into the package, in bfloat16 and without the run's records: `python training/starter/ship.py
FOLDER…`, each made by `mp13 train --recipe training/starter/recipes/NAME.toml`.

SHA256SUMS gets the new files; what it has of earlier ones stays, so that a chat knows those that it finds installed.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SHIPPED = Path(__file__).parents[2] / "src" / "mp13" / "library" / "starter_adapters"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def ship(made: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in load_file(made / WEIGHTS).items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    (target / WEIGHTS).chmod(0o644)
    fields = json.loads((made / CONFIG).read_text(encoding="utf-8"))
    (target / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    _note(target)


def _note(target: Path) -> None:
    sums = target.parent / "SHA256SUMS"
    files = sorted(target.iterdir())
    made = {f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {target.name}/{file.name}" for file in files}
    known = set(sums.read_text(encoding="utf-8").splitlines()) | made
    sums.write_text("".join(f"{line}\n" for line in sorted(known, key=lambda line: line[66:])), encoding="utf-8")


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        ship(folder, SHIPPED / folder.name)
        print(f"{folder.name}: {(SHIPPED / folder.name / WEIGHTS).stat().st_size:,} bytes")
