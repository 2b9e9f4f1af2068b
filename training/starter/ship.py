"""Puts trained adapters into the package, in bfloat16 and without the run's records: `python training/starter/ship.py
FOLDER…`, each made by `mp13 train --recipe training/starter/recipes/NAME.toml`.
"""

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


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        ship(folder, SHIPPED / folder.name)
        print(f"{folder.name}: {(SHIPPED / folder.name / WEIGHTS).stat().st_size:,} bytes")
