"""Prints what the simulated problem is like: ``python -m examples.aflow_esc.simulated``."""

import numpy as np

from examples.aflow_esc.simulated import (
    ExactFlow,
    best_return,
    evaluate_policy,
    prior_policy,
    simulated_roles,
    uniform_policy,
)
from examples.aflow_esc.scenes import SupportScene, bundled_scenes
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.search import enumerate_tree

TEMPERATURES = (0.05, 0.1, 0.2)
COLUMNS = (
    *("uniform G", "success", "left", "turns", "prior G", "success", "left", "best G", "best helped", "leaves"),
    *(f"{name} τ={tau}" for tau in TEMPERATURES for name in ("flow G", "success", "paths")),
)


def describe(scene: SupportScene) -> list[float]:
    """One row of `COLUMNS`; ``paths`` is exp of the entropy of the flow's distribution over leaves."""
    environment = DialogueEnvironment.of(TASK, simulated_roles(), TASK.inventory())
    tree = enumerate_tree(environment, [DialogueState.begin(scene)])
    leaves, returns = tree.forest.leaves, tree.leaf_return.numpy()
    best = tree.states[int(leaves[returns.argmax()])]
    row = [*evaluate_policy(scene, uniform_policy), *evaluate_policy(scene, prior_policy)[:3]]
    row += [best_return(scene), best.status == "helped", len(leaves)]
    for tau in TEMPERATURES:
        flow = ExactFlow(scene, tau)
        log_prob = returns / tau - flow.log_z
        outcome = evaluate_policy(scene, flow.policy)
        row += [outcome.expected_return, outcome.success, float(np.exp(-(np.exp(log_prob) @ log_prob)))]
    return row


def main() -> None:
    """One line a scene, then the mean."""
    rows = {scene.id: describe(scene) for scene in bundled_scenes()}
    print(", ".join(COLUMNS))
    for name, row in (*rows.items(), ("mean", np.mean(list(rows.values()), axis=0))):
        print(f"{name:22}" + " ".join(f"{value:8.2f}" for value in row))


if __name__ == "__main__":
    main()
