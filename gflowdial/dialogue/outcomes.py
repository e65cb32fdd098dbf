"""What a policy makes of scenes: exactly, where every history can be enumerated, or from episodes that were played."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import torch

from gflowdial import oracle
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.play import Episode
from gflowdial.dialogue.policies import DialoguePolicy
from gflowdial.metrics.certificates import certificate
from gflowdial.metrics.distances import kl_divergence, total_variation
from gflowdial.search import SearchTree
from gflowdial.shapes import Float, Tensor

Outcome = Mapping[str, float | None]
"""Measures by name, None where one is not known.

- ``expected_return``: E[G];
- one per way to end, as the task calls it: its probability;
- ``turns``: the agent's turns;
- ``entropy``: of the move at the states that the policy comes to, in nats;
- ``total_variation``: distance of the policy's distribution over whole conversations to the exact flow's;
- ``kl``: KL(exact flow ‖ policy) of the same distributions, in nats; None where it is infinite;
- ``good_conversations``: the expected number of different conversations with G ≥ 0.9·max G among 64 samples;
- ``certificate``: the upper bound tanh(L/4) of ``total_variation``, L the range of log R − log P_F over conversations,
  see `gflowdial.metrics.certificate`; None where L is infinite;
- ``environment_steps``: exchanges that the policy itself simulates in a conversation, 0 without search.
"""
SAMPLES = 64
"""Among how many samples ``good_conversations`` counts."""
GOOD = 0.9
"""The share of the greatest return from which on a conversation is good."""


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


def greedy_log_pf(tree: SearchTree[DialogueState], scores: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
    """log P_F of the policy that takes the move of the greatest score, the first of equal ones; chance is as it is."""
    forest = tree.forest
    parent, edge = forest.edge_parent, torch.arange(len(scores))
    best = scores.new_full((forest.num_nodes,), -torch.inf).scatter_reduce(0, parent, scores, "amax")
    candidate = torch.where(scores == best[parent], edge, len(edge))
    first = torch.full((forest.num_nodes,), len(edge)).scatter_reduce(0, parent, candidate, "amin")
    log_pf = torch.where(first[parent] == edge, 0.0, -torch.inf).double()
    return torch.where(tree.chance[parent], tree.log_chance[forest.edge_child], log_pf)


def best_log_pf(tree: SearchTree[DialogueState]) -> Float[Tensor, " edges"]:
    """log P_F of the policy with the greatest E[G] on enumerated trees."""
    parent, chance = tree.forest.parent.tolist(), tree.chance.tolist()
    value = torch.where(tree.chance, 0.0, -torch.inf).double()
    value[tree.forest.leaves] = tree.leaf_return.double()
    values, share = value.tolist(), tree.log_chance.exp().tolist()
    # Parents come before their children: from the last node to the first, a node is complete when it is met.
    for node in range(len(parent) - 1, -1, -1):
        if (above := parent[node]) >= 0:
            part = values[above] + share[node] * values[node] if chance[above] else max(values[above], values[node])
            values[above] = part
    return greedy_log_pf(tree, torch.tensor(values, dtype=torch.float64)[tree.forest.edge_child])


@dataclass(frozen=True)
class EnumeratedScene:
    """All conversations of a scene, and what they are worth.

    Attributes:
        tree: the conversations.
        log_flow_pf: log P_F of the exact flow.
        worth: by measure, its value at each end: the return, one indicator per way to end, the agent's turns.
        temperature: τ of the exact flow.
    """

    tree: SearchTree[DialogueState]
    log_flow_pf: Float[Tensor, " edges"]
    worth: Mapping[str, Float[Tensor, " leaves"]]
    temperature: float

    @staticmethod
    def of(environment: DialogueEnvironment, tree: SearchTree[DialogueState], temperature: float) -> "EnumeratedScene":
        """From a scene's enumerated tree, with the exact flow for R = exp(G/τ)."""
        leaves = [tree.states[node] for node in tree.forest.leaves.tolist()]
        ends = {
            name: torch.tensor([state.status == status for state in leaves]).double()
            for status, name in environment.task.ends.items()
        }
        turns = torch.tensor([state.dialogue.agent_turns for state in leaves]).double()
        worth = {"expected_return": tree.leaf_return.double(), **ends, "turns": turns}
        return EnumeratedScene(tree, exact_log_pf(tree, temperature), worth, temperature)

    def at(self, temperature: float) -> "EnumeratedScene":
        """The same scene with the exact flow at another τ."""
        if temperature == self.temperature:
            return self
        return replace(self, log_flow_pf=exact_log_pf(self.tree, temperature), temperature=temperature)

    def outcome(self, log_pf: Float[Tensor, " edges"]) -> Outcome:
        """The exact outcome of a policy, of which `policy_log_pf` gives log P_F."""
        tree, forest = self.tree, self.tree.forest
        log_reach = forest.root_sum(log_pf)
        log_ends, log_target = log_reach[forest.leaves], forest.leaf_sum(self.log_flow_pf)
        ends, reach = log_ends.exp(), log_reach.exp()
        moves = (~tree.chance)[forest.edge_parent]
        surprise = torch.where(moves & (log_pf > -torch.inf), log_pf, 0.0)
        acts = (forest.num_children > 0) & ~tree.chance
        # log R up to a constant; with chance, log R and the log-probabilities of the answers.
        certified = certificate(log_pf, log_target, forest)
        divergence = float(kl_divergence(log_target, log_ends))
        returns = self.worth["expected_return"]
        good = ends[returns >= returns.max() - (1 - GOOD) * returns.max().abs()]
        return {
            **{name: float(ends @ value) for name, value in self.worth.items()},
            "entropy": float(-(reach[forest.edge_child] * surprise).sum() / reach[acts].sum()),
            "total_variation": float(total_variation(log_ends, log_target)),
            "kl": divergence if isfinite(divergence) else None,
            "good_conversations": float((1 - (1 - good) ** SAMPLES).sum()),
            "certificate": float(certified.worst_case) if isfinite(float(certified.spread)) else None,
            "environment_steps": 0.0,
        }


def enumerated_outcome(
    environment: DialogueEnvironment, tree: SearchTree[DialogueState], policy: DialoguePolicy | None, temperature: float
) -> Outcome:
    """The exact outcome of a policy on one enumerated scene; without one, of the exact flow policy."""
    scene = EnumeratedScene.of(environment, tree, temperature)
    return scene.outcome(scene.log_flow_pf if policy is None else policy_log_pf(environment, tree, policy))


def sampled_outcome(environment: DialogueEnvironment, episodes: Sequence[Episode], steps: float = 0.0) -> Outcome:
    """The mean outcome of episodes of one scene, for which the policy itself took ``steps`` in all."""
    return {
        "expected_return": float(np.mean([episode.episode_return for episode in episodes])),
        **{
            name: float(np.mean([episode.state.status == status for episode in episodes]))
            for status, name in environment.task.ends.items()
        },
        "turns": float(np.mean([episode.dialogue.agent_turns for episode in episodes])),
        "entropy": float(np.mean([entropy for episode in episodes for entropy in episode.entropies])),
        **dict.fromkeys(("total_variation", "kl", "good_conversations", "certificate")),
        "environment_steps": steps / len(episodes),
    }


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean of each measure; None where one is not known."""
    columns = {name: [outcome[name] for outcome in outcomes] for name in outcomes[0]}
    return {
        name: None if None in column else float(np.mean([value for value in column if value is not None]))
        for name, column in columns.items()
    }
