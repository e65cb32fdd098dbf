"""Dialogues in search trees: how their states stand in a file, and a recorded dialogue as a tree of one path."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import CONTINUES
from gflowdial.dialogue.scenes import scene_from_json
from gflowdial.dialogue.task import Task
from gflowdial.dialogue.values import Dialogue, Turn
from gflowdial.forest import Forest
from gflowdial.search import SearchTree


def encode_states(tree: SearchTree[DialogueState]) -> list[dict[str, Any]]:
    """What each node adds to its parent's dialogue, as JSON: turns as ``[speaker, text, move]``, the status, and scores
    of the exchange if there are any; at a root also the scene."""
    encoded = []
    for above, state in zip(tree.forest.parent.tolist(), tree.states, strict=True):
        known = len(tree.states[above].dialogue.turns) if above >= 0 else 0
        turns = [[turn.speaker, turn.text, turn.move] for turn in state.dialogue.turns[known:]]
        scene = {"scene": asdict(state.dialogue.scene)} if above < 0 else {}
        scores = {"scores": list(state.scores)} if state.scores else {}
        encoded.append({**scene, "turns": turns, "status": state.status, **scores})
    return encoded


def decode_states(values: Sequence[Any], parent: Sequence[int], task: Task) -> list[DialogueState]:
    """The states that `encode_states` wrote.

    Raises:
        ValueError: a value is not of that form, or has a scene or a status that the task does not know.
    """
    states: list[DialogueState] = []
    for node, (value, above) in enumerate(zip(values, parent, strict=True)):
        before = _root(value, task) if above < 0 else states[above].dialogue
        try:
            turns = [Turn(speaker, text, move) for speaker, text, move in value["turns"]]
            status, scores = value["status"], tuple(map(float, value.get("scores", ())))
            fine = (status == CONTINUES or status in task.ends) and all(
                turn.speaker in ("agent", "partner") and isinstance(turn.text, str) for turn in turns
            )
        except (TypeError, KeyError, ValueError):
            fine = False
        if not fine:
            known = ", ".join(map(repr, (CONTINUES, *task.ends)))
            raise ValueError(f"node {node}: its state needs turns as [speaker, text, move] and a status of {known}")
        if scores and len(scores) != len(task.criteria):
            raise ValueError(f"node {node}: it has {len(scores)} scores, and the task {len(task.criteria)} criteria")
        states.append(DialogueState(before.then(*turns), status, scores))
    return states


def _root(value: Any, task: Task) -> Dialogue:
    if not isinstance(value, dict) or "scene" not in value:
        raise ValueError("the state of the root needs a scene")
    return Dialogue(scene_from_json(value["scene"], task.scene, "the scene of the root"), ())


def check_moves(tree: SearchTree[DialogueState], inventory: Inventory) -> None:
    """
    Raises:
        ValueError: the root does not open its scene, a node adds other turns than one exchange, a turn names another
            move than the action that led to it, or a conversation goes on whose status ends it.
    """
    if tree.states[0].dialogue != Dialogue.begin(tree.states[0].dialogue.scene):
        raise ValueError("node 0: its text is not the scene's opening")
    for node, (above, state) in enumerate(zip(tree.forest.parent.tolist(), tree.states, strict=True)):
        if state.status != CONTINUES and not tree.ended[node]:
            raise ValueError(f"node {node}: its status is {state.status!r}, so it has ended")
        if above < 0 or tree.chance[node]:
            continue
        # An outcome of chance is of the action that led to its chance node, whose state is the one before.
        action = inventory.names[int(tree.action[above if tree.chance[above] else node])]
        exchange = state.dialogue.turns[len(tree.states[above].dialogue.turns) :]
        if [turn.speaker for turn in exchange] != ["agent", "partner"]:
            raise ValueError(f"node {node}: it adds {len(exchange)} turns, not one of the agent and one of its partner")
        if exchange[0].move != action:
            raise ValueError(f"node {node}: its move is {exchange[0].move!r}, but its action {action!r}")


def recorded_tree(
    dialogue: Dialogue, decisions: Sequence[int], inventory: Inventory, outcome: float = 1.0
) -> SearchTree[DialogueState]:
    """A recorded dialogue as a chain: what its agent chose at ``decisions``.

    Args:
        dialogue: with moves.
        decisions: the agent's turns that count, as indices into the turns, ascending; see `DialogueEncoder.decisions`.
        inventory: whose names the moves are.
        outcome: the return of the dialogue.
    """
    ends = [*decisions, min(decisions[-1] + 2, len(dialogue.turns))]
    nodes, actions = len(ends), len(inventory)
    labels = [inventory.index(dialogue.turns[turn].move or "") for turn in decisions]
    ended = torch.zeros(nodes, dtype=torch.bool)
    ended[-1] = True
    return SearchTree(
        forest=Forest.from_lengths([nodes - 1]),
        states=tuple(DialogueState(Dialogue(dialogue.scene, dialogue.turns[:end]), CONTINUES) for end in ends),
        action=torch.tensor([-1, *labels]),
        reward=torch.zeros(nodes, dtype=torch.float64),
        visits=torch.ones(nodes, dtype=torch.int64),
        value=torch.full((nodes,), outcome, dtype=torch.float64),
        log_prior=torch.full((nodes, actions), -np.log(actions), dtype=torch.float64),
        ended=ended,
        expanded=torch.ones(nodes, dtype=torch.bool),
        chance=torch.zeros(nodes, dtype=torch.bool),
        log_chance=torch.zeros(nodes, dtype=torch.float64),
    )
