"""Laws of a batch of trajectories: each is a walk of its environment, from an initial to a terminal state."""

import torch

from gflowdial.envs.environment import Environment
from gflowdial.layouts import Chains
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.shapes import Tensor
from gflowdial.testing.broken import BrokenLawError
from gflowdial.testing.precision import FLOAT32


def check_trajectories(trajectories: Trajectories, environment: Environment) -> None:
    """Check that trajectories, from a sampler or from data, are walks of an environment.

    The laws: there is one chain per trajectory and one entry per node, edge, leaf and tree; each starts at the initial
    state of its condition; the masks allow every action, forward before it and backward behind it; each step of the
    environment leads to the next state, and back; each ends in a terminal state; log R is finite, and that of the end
    up to the rounding of its dtype.

    Args:
        trajectories: what to check.
        environment: keeps its own laws, see `check_environment`.

    Raises:
        AssertionError: with the law, the trajectory, its step and what was found.
    """
    forest, states = trajectories.forest, trajectories.states
    if not isinstance(forest.layout, Chains):
        raise _broken("chains", "the forest is not of chains laid end to end")
    initial = environment.initial_states
    for name, shape, dtype in (
        ("states", (forest.num_nodes, initial.shape[1]), torch.int64),
        ("actions", (forest.num_edges,), torch.int64),
        ("condition", (forest.num_trees,), torch.int64),
        ("log_reward", (forest.num_trees,), None),
    ):
        values: Tensor = getattr(trajectories, name)
        if values.shape != shape:
            raise _broken("shapes", f"{name} has shape {list(values.shape)} where {list(shape)} is due")
        if values.dtype != dtype and (dtype is not None or not values.is_floating_point()):
            raise _broken("shapes", f"{name} is {values.dtype} where {dtype or 'floating point'} is due")
    _starts(trajectories, initial)
    _steps(trajectories, environment)
    ends = states[forest.leaves]
    if (tree := _first(environment.forward_mask(ends).any(1))) is not None:
        raise _broken("ends", f"trajectory {tree} ends in {ends[tree].tolist()}, which is not terminal")
    _rewards(trajectories, environment.log_reward(ends))


def _starts(trajectories: Trajectories, initial: Tensor) -> None:
    condition, roots = trajectories.condition, trajectories.states[trajectories.forest.roots]
    if (tree := _first((condition < 0) | (condition >= len(initial)))) is not None:
        raise _broken("starts", f"the condition of trajectory {tree} is {int(condition[tree])} of {len(initial)}")
    if (tree := _first((roots != initial[condition]).any(1))) is not None:
        raise _broken(
            "starts",
            f"trajectory {tree} starts from {roots[tree].tolist()}, not from the initial state "
            f"{initial[condition[tree]].tolist()} of its condition {int(condition[tree])}",
        )


def _steps(trajectories: Trajectories, environment: Environment) -> None:
    forest, action = trajectories.forest, trajectories.actions
    before, after = trajectories.states[forest.edge_parent], trajectories.states[forest.edge_child]
    if not len(action):
        return

    def at(edge: int) -> str:
        tree, step = int(forest.edge_tree[edge]), int(forest.depth[forest.edge_parent[edge]])
        return f"step {step} of trajectory {tree}, action {int(action[edge])} from {before[edge].tolist()}"

    if (edge := _first((action < 0) | (action >= environment.num_actions))) is not None:
        raise _broken("actions", f"{at(edge)} is none of {environment.num_actions} actions")
    rows = torch.arange(len(action), device=action.device)
    if (edge := _first(~environment.forward_mask(before)[rows, action])) is not None:
        raise _broken("actions", f"the forward mask forbids {at(edge)}")
    reached = environment.step(before.clone(), action)
    if (edge := _first((reached != after).any(1))) is not None:
        raise _broken("steps", f"{at(edge)} leads to {reached[edge].tolist()}, not to {after[edge].tolist()}")
    if (edge := _first(~environment.backward_mask(after)[rows, action])) is not None:
        raise _broken("steps", f"the backward mask at {after[edge].tolist()} forbids {at(edge)}")
    back = environment.step_back(after.clone(), action)
    if (edge := _first((back != before).any(1))) is not None:
        raise _broken("steps", f"back from {after[edge].tolist()}, {at(edge)} comes to {back[edge].tolist()}")


def _rewards(trajectories: Trajectories, expected: Tensor) -> None:
    given = trajectories.log_reward
    if (tree := _first(~given.isfinite())) is not None:
        raise _broken("rewards", f"log_reward of trajectory {tree} is {float(given[tree])}")
    epsilon = max(FLOAT32, *(torch.finfo(values.dtype).eps for values in (given, expected)))
    off = (given.double() - expected.double()).abs() > 4 * epsilon * (1 + expected.double().abs())
    if (tree := _first(off)) is not None:
        raise _broken(
            "rewards",
            f"log_reward of trajectory {tree} is {float(given[tree]):.6g}, that of its end is "
            f"{float(expected[tree]):.6g}",
        )


def _first(wrong: Tensor) -> int | None:
    return int(torch.nonzero(wrong)[0]) if bool(wrong.any()) else None


def _broken(law: str, what: str) -> BrokenLawError:
    return BrokenLawError(f"the trajectories break a law ('{law}'): {what}.")
