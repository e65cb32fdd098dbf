"""The model card of a policy's folder: what it is, from which data, how it did, and what it is not for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gflowdial.dialogue.moves import Inventory

_RESULTS = "## Results\n"


def write_card(folder: Path, facts: Mapping[str, Any], inventory: Inventory) -> None:
    """Write ``README.md``; results are added by `add_results` when there are some."""
    moves = "\n".join(f"- {move.name}: {move.description}".rstrip(": ") for move in inventory.moves)
    text = f"""# A dialogue policy of gflowdial

It chooses the agent's next move in a conversation of the task `{facts.get("task")}`.

- Trained by: {facts.get("method")}, seed {facts.get("seed")}
- Target: R = exp(G/τ) with τ = {facts.get("temperature")}
- Data: {facts.get("data")}; licence: {facts.get("data_licence")}

## Moves

{moves}

## Use

    from gflowdial.dialogue.policies import LearnedPolicy
    policy = LearnedPolicy.from_pretrained(".")
    policy.log_policy([dialogue])

## Safety

{facts.get("safety")}

{_RESULTS}
None yet: evaluate the run.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def add_results(folder: Path, results: Mapping[str, Mapping[str, object]], caption: str) -> None:
    """Put the results of an evaluation into the model card in place of those before.

    Args:
        folder: the policy's.
        results: by column, such as "sampled" and "greedy", the value of each measure; None where it is not known.
        caption: what the results are of.
    """
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8").split(_RESULTS)[0]
    lines: list[list[object]] = [["measure", *results], ["---"] * (1 + len(results))]
    for measure in next(iter(results.values())):
        values = [column[measure] for column in results.values()]
        if any(value is not None for value in values):
            lines.append([measure.replace("_", " "), *("–" if value is None else value for value in values)])
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    card.write_text(f"{before}{_RESULTS}\n{table}\n\n{caption}\n", encoding="utf-8")
