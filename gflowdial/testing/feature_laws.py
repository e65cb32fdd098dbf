"""Features that a network reads: states that look alike must ask for the same answer."""

import torch

from gflowdial import oracle
from gflowdial.envs.enumeration import enumerate_states
from gflowdial.shapes import Tensor
from gflowdial.testing.broken import BrokenLawError
from gflowdial.testing.exploration import Explored, Watched

PAIRS = 64
"""Pairs of states with the same features that are compared by walks."""
WALKS = 4
"""Walks by the same actions from both states of a pair, where the exact flow is unknown."""
FORGOTTEN = 1e-6
"""Nats; exact flows that differ by less are alike."""


def tell_apart(environment: Watched, found: Explored, states: Tensor) -> None:
    """
    Raises:
        AssertionError: if two states that are not terminal have the same features, and other actions, another exact
            log F or other exact log P_F.
    """
    forward = environment.forward_mask(states)
    going = torch.nonzero(forward.any(1)).squeeze(1)
    if not len(going):
        return
    features = environment.features(states[going])
    place = torch.unique(features, dim=0, return_inverse=True)[1]
    order = place.argsort(stable=True)
    alike = torch.nonzero(place[order][1:] == place[order][:-1]).squeeze(1)
    pairs = torch.stack([going[order[alike]], going[order[alike + 1]]], 1).tolist()
    exact = _exact(environment, found, forward) if pairs and found.complete else None
    for one, other in pairs if exact is not None else pairs[:PAIRS]:
        what = _mask_difference(forward, one, other)
        if what is None and exact is not None:
            what = _flow_difference(*exact, one, other)
        if what is None and exact is None:
            what = _walk_difference(environment, states[[one, other]])
        if what is not None:
            raise BrokenLawError(
                f"features do not tell states {list(found.states[one])} ({found.way(one)}) and "
                f"{list(found.states[other])} ({found.way(other)}) apart, but {what}"
            )


def _mask_difference(forward: Tensor, one: int, other: int) -> str | None:
    differ = torch.nonzero(forward[one] != forward[other]).squeeze(1).tolist()
    return f"action {differ[0]} is allowed in one of them only" if differ else None


def _exact(environment: Watched, found: Explored, forward: Tensor) -> tuple[Tensor, Tensor]:
    """log F of each state found and log P_F of each action, for an even P_B."""
    graph = enumerate_states(environment, limit=len(found.states))
    into = torch.bincount(graph.dag.target, minlength=graph.dag.num_nodes)[graph.dag.target]
    log_flow, log_pf = oracle.dag_flows(graph.dag, -into.double().log(), graph.log_reward)
    place = torch.tensor([found.index[tuple(state)] for state in graph.states.tolist()], device=into.device)
    policy = torch.full(forward.shape, -torch.inf, dtype=torch.float64, device=into.device)
    policy[place[graph.dag.source], graph.action] = log_pf
    return torch.empty_like(log_flow).index_copy(0, place, log_flow), policy


def _flow_difference(log_flow: Tensor, policy: Tensor, one: int, other: int) -> str | None:
    if abs(float(log_flow[one] - log_flow[other])) > FORGOTTEN:
        return f"their exact log F are {float(log_flow[one]):.4g} and {float(log_flow[other]):.4g}"
    off = torch.where(policy[one].isfinite(), (policy[one] - policy[other]).abs(), 0.0)
    action = int(off.argmax())
    if float(off[action]) <= FORGOTTEN:
        return None
    first, second = float(policy[one, action]), float(policy[other, action])
    return f"their exact log P_F of action {action} are {first:.4g} and {second:.4g}"


def _walk_difference(environment: Watched, pair: Tensor) -> str | None:
    """Whether some actions lead from the two states to different masks or rewards."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(WALKS):
        at, taken = pair, 0
        while True:
            mask = environment.forward_mask(at)
            if not torch.equal(mask[0], mask[1]):
                return f"the same {taken} actions lead from them to states with different actions"
            if not bool(mask[0].any()):
                break
            action = torch.multinomial(mask[0].double().cpu(), 1, generator=generator).to(at.device)
            at, taken = environment.step(at, action.expand(2)), taken + 1
        reward = environment.log_reward(at).double()
        if abs(float(reward[0] - reward[1])) > FORGOTTEN:
            first, second = reward.tolist()
            return f"the same {taken} actions lead from them to log R = {first:.4g} and {second:.4g}"
    return None
