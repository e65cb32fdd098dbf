"""What a policy makes of scenes: exactly, where every history can be enumerated, or from episodes that were played."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gflowdial import oracle
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.play import Episode
from gflowdial.dialogue.policies import DialoguePolicy
from gflowdial.metrics.distances import total_variation
from gflowdial.search import SearchTree
from gflowdial.shapes import Float, Tensor

Outcome = Mapping[str, float | None]
"""Measures by name, None where one is not known.

- ``expected_return``: E[G];
- one per way to end, as the task calls it: its probability;
- ``turns``: the agent's turns;
- ``entropy``: of the move at the states that the policy comes to, in nats;
- ``total_variation``: distance of the policy's distribution over whole conversations to the exact flow's.
"""


def exact_log_pf(tree: SearchTree[DialogueState], temperature: float) -> Float[Tensor, " edges"]:
    """log P_F of the exact flow for R = exp(G/τ) on enumerated trees; of chance at edges out of chance nodes."""
    forest, log_reward = tree.forest, tree.leaf_return / temperature
    if not bool(tree.chance.any()):
        return oracle.exact_flows(forest, log_reward)[1]
    log_chance = tree.log_chance[forest.edge_child]
    return oracle.expected_flows(forest, log_reward, chance=tree.chance, log_chance=log_chance)[1]


def policy_log_pf(
    environment: DialogueEnvironment, tree: SearchTree[DialogueState], policy: DialoguePolicy
) -> Float[Tensor, " edges"]:
    """log P_F of a policy on enumerated trees; of chance at edges out of chance nodes."""
    forest = tree.forest
    acts = (forest.num_children > 0) & ~tree.chance
    dialogues = [tree.states[node].dialogue for node in acts.nonzero().squeeze(1).tolist()]
    log_policy = torch.from_numpy(environment.restrict(policy.log_policy(dialogues), dialogues))
    row = acts.long().cumsum(0)[forest.edge_parent] - 1
    log_pf = log_policy[row, tree.action[forest.edge_child]]
    return torch.where(tree.chance[forest.edge_parent], tree.log_chance[forest.edge_child], log_pf)


def enumerated_outcome(
    environment: DialogueEnvironment, tree: SearchTree[DialogueState], policy: DialoguePolicy | None, temperature: float
) -> Outcome:
    """The exact outcome of a policy on one enumerated scene; without one, of the exact flow policy."""
    forest, returns = tree.forest, tree.leaf_return
    exact = exact_log_pf(tree, temperature)
    log_pf = exact if policy is None else policy_log_pf(environment, tree, policy)
    log_reach = forest.root_sum(log_pf)
    ends, reach = log_reach[forest.leaves].exp(), log_reach.exp()
    moves = (~tree.chance)[forest.edge_parent]
    surprise = torch.where(moves & (log_pf > -torch.inf), log_pf, 0.0)
    leaves = [tree.states[node] for node in forest.leaves.tolist()]
    acts = (forest.num_children > 0) & ~tree.chance
    return {
        "expected_return": float(ends @ returns),
        **{
            name: float(ends @ torch.tensor([state.status == status for state in leaves]).double())
            for status, name in environment.task.ends.items()
        },
        "turns": float(ends @ torch.tensor([state.dialogue.agent_turns for state in leaves]).double()),
        "entropy": float(-(reach[forest.edge_child] * surprise).sum() / reach[acts].sum()),
        "total_variation": float(total_variation(log_reach[forest.leaves], forest.leaf_sum(exact))),
    }


def sampled_outcome(environment: DialogueEnvironment, episodes: Sequence[Episode]) -> Outcome:
    """The mean outcome of episodes of one scene."""
    return {
        "expected_return": float(np.mean([episode.episode_return for episode in episodes])),
        **{
            name: float(np.mean([episode.state.status == status for episode in episodes]))
            for status, name in environment.task.ends.items()
        },
        "turns": float(np.mean([episode.dialogue.agent_turns for episode in episodes])),
        "entropy": float(np.mean([entropy for episode in episodes for entropy in episode.entropies])),
        "total_variation": None,
    }


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean of each measure; None where one is not known."""
    columns = {name: [outcome[name] for outcome in outcomes] for name in outcomes[0]}
    return {
        name: None if None in column else float(np.mean([value for value in column if value is not None]))
        for name, column in columns.items()
    }
