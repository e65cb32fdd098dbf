"""The strategies of emotional support: three inventories, and the maps of labels onto AFlow's eight, as data."""

import json
from pathlib import Path
from types import MappingProxyType

from gflowdial.dialogue.moves import load_inventories

_FOLDER = Path(__file__).parent
_INVENTORIES = load_inventories(_FOLDER / "inventories.json")
AFLOW, ESCONV, EXTES = (_INVENTORIES[name] for name in ("aflow", "esconv", "extes"))

INVENTORIES = (AFLOW, ESCONV, EXTES)
"""All of them; a run takes AFlow's unless it names another."""

_MAPS: dict[str, dict[str, str | None]] = json.loads((_FOLDER / "label_maps.json").read_text(encoding="utf-8"))
ESCONV_TO_AFLOW, EXTES_TO_AFLOW = (MappingProxyType(_MAPS[name]) for name in ("esconv", "extes"))
"""What each label means to AFlow; None: no AFlow strategy, masked wherever labels count."""
