"""The strategies of emotional support: inventories, and what their moves are in AFlow's, all from one data file."""

import json
from collections.abc import Mapping
from pathlib import Path

from gflowdial.dialogue.moves import inventories_of

_DATA = json.loads(Path(__file__).with_name("inventories.json").read_text(encoding="utf-8"))

TO_AFLOW: Mapping[str, Mapping[str, str | None]] = {
    name: {move["name"]: move.pop("aflow") for move in moves} for name, moves in _DATA.items() if name != "aflow"
}
"""By inventory, what each move means to AFlow; None: no AFlow strategy, masked wherever labels count."""

INVENTORIES = inventories_of(_DATA)
"""All inventories by name, AFlow's first: a run takes it unless it names another."""

AFLOW, ESCONV, EXTES = (INVENTORIES[name] for name in ("aflow", "esconv", "extes"))
