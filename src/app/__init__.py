"""Entry points for a checkout that is not installed: `python -m src.app.mp13chat`, `python -m src.app.config`."""

import sys
from pathlib import Path

if __name__ == "src.app":  # imported from the checkout's root, where `mp13` is not importable yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
