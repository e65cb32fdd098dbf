"""What is measured of policies turn by turn, exactly, on held-out scenes whose conversations can all be played."""

from collections.abc import Iterator, Sequence

import torch

from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.outcomes import EnumeratedScene, Outcome, policy_log_pf
from gflowdial.dialogue.rows import EXACT, PRIOR, depends_on_seed, enumerated_scene, is_search, policy_of, policy_rows
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.studies.records import Record, training_steps
from gflowdial.search import SearchTree
from gflowdial.shapes import Float, Int, Tensor

STAGES = ("early", "middle", "late")
"""The first, second and last third of the turns that a conversation may have."""

_Tables = list[list[Float[Tensor, " edges"]]]
"""log P_F of a policy by seed and scene."""


def by_turn(run: Run) -> list[Record]:
    """Of every policy and turn: the mean reward and entropy where the turn is come to, and how often it is.

    The axis is ``turn``, from 1; the measures are ``turn_reward``, ``turn_entropy`` and ``reached``.
    """
    setting, scenes, ids = _scenes(run)
    return [
        Record(
            name,
            {"turn": turn},
            [[_turn(scene.tree, log_pf, turn) for scene, log_pf in zip(scenes, row, strict=True)] for row in tables],
            ids,
            training_steps(run, name),
        )
        for name, tables in _tables(run, setting, scenes)
        for turn in range(1, setting.environment.max_turns + 1)
    ]


def by_stage(run: Run) -> list[Record]:
    """Outcomes where a policy decides in one stage of the conversation only, the untrained prior in the others.

    The axis is ``stage``, one of `STAGES` or ``"all"``.
    """
    setting, scenes, ids = _scenes(run)
    tables = dict(_tables(run, setting, scenes))
    turns = setting.environment.max_turns
    records = []
    for name, of_policy in tables.items():
        for stage in ("all", *STAGES):
            (of_prior,) = tables[PRIOR]
            outcomes = [
                [
                    scene.outcome(
                        log_pf if stage == "all" else _only_in(scene.tree, STAGES.index(stage), turns, log_pf, prior)
                    )
                    for scene, log_pf, prior in zip(scenes, of_seed, of_prior, strict=True)
                ]
                for of_seed in of_policy
            ]
            records.append(Record(name, {"stage": stage}, outcomes, ids, training_steps(run, name)))
    return records


def _scenes(run: Run) -> tuple[Setting, list[EnumeratedScene], list[str]]:
    setting = Setting.of(run)
    scenes = setting.scenes.held_out
    return setting, [enumerated_scene(setting, scene) for scene in scenes], [scene.id for scene in scenes]


def _tables(run: Run, setting: Setting, scenes: Sequence[EnumeratedScene]) -> Iterator[tuple[str, _Tables]]:
    """Every policy of the evaluation but search."""
    for name in policy_rows(setting):
        if name == EXACT:
            yield name, [[scene.log_flow_pf for scene in scenes]]
        elif not is_search(name):
            seeds = run.config.seeds if depends_on_seed(name) else run.config.seeds[:1]
            policies = (policy_of(run, setting, seed, name) for seed in seeds)
            environment = setting.environment
            yield name, [[policy_log_pf(environment, scene.tree, policy) for scene in scenes] for policy in policies]


def _turn(tree: SearchTree[DialogueState], log_pf: Float[Tensor, " edges"], turn: int) -> Outcome:
    forest, taken = tree.forest, _turns(tree)
    reach = forest.root_sum(log_pf).exp()
    after = (taken == turn) & ~tree.chance
    acts = (taken == turn - 1) & ~tree.chance & (forest.num_children > 0)
    reached = float(reach[acts].sum())
    if reached == 0:
        return {"turn_reward": None, "turn_entropy": None, "reached": 0.0}
    moves = acts[forest.edge_parent]
    surprise = torch.where(moves & (log_pf > -torch.inf), log_pf, 0.0)
    return {
        "turn_reward": float(reach[after] @ tree.reward[after]) / reached,
        "turn_entropy": float(-(reach[forest.edge_child] * surprise).sum()) / reached,
        "reached": reached,
    }


def _only_in(
    tree: SearchTree[DialogueState],
    stage: int,
    turns: int,
    log_pf: Float[Tensor, " edges"],
    prior: Float[Tensor, " edges"],
) -> Float[Tensor, " edges"]:
    decides = (len(STAGES) * _turns(tree) // turns)[tree.forest.edge_parent] == stage
    return torch.where(decides, log_pf, prior)


def _turns(tree: SearchTree[DialogueState]) -> Int[Tensor, " nodes"]:
    """The agent's turns before each node; a chance node has those before its move."""
    return torch.tensor([state.dialogue.agent_turns for state in tree.states])
