"""All states of a small environment, as a graph on which answers are exact."""

from dataclasses import dataclass
from functools import cached_property

import torch

from gflowdial.dag import Dag, longest_path
from gflowdial.envs.environment import Environment
from gflowdial.numerics import first_true, keys, usable_in_training
from gflowdial.shapes import Float, Int, Tensor


@usable_in_training
@dataclass(frozen=True, eq=False)
class StateGraph:
    """Every state that an environment can reach, and every step between them.

    An estimator's answers for all states become flat tensors beside the graph by indexing, and meet the exact ones of
    `gflowdial.oracle` there::

        estimates = estimator(graph.states)
        log_pf = estimates.log_pf[graph.dag.source, graph.action]
        log_pb = estimates.log_pb[graph.dag.target, graph.action]

    Attributes:
        dag: states as nodes, steps as edges; the initial states come first, in the environment's order.
        states: the state of each node.
        action: the action of each edge.
        log_reward: log R of each terminal, in the order of ``dag.terminals``.
    """

    dag: Dag
    states: Int[Tensor, "nodes width"]
    action: Int[Tensor, " edges"]
    log_reward: Float[Tensor, " terminals"]

    @property
    def num_conditions(self) -> int:
        """How many initial states there are: the roots of the dag. ``dag.root_of`` says which one a state follows."""
        return len(self.dag.roots)

    def index(self, states: Int[Tensor, "rows width"]) -> Int[Tensor, " rows"]:
        """The node of each state.

        Raises:
            ValueError: if the environment cannot reach a state, or it has another width.
        """
        if states.ndim != 2 or states.shape[1] != self.states.shape[1]:
            raise ValueError(f"states must be rows of {self.states.shape[1]} integers; got {list(states.shape)}.")
        known, nodes = self._lookup
        place = torch.searchsorted(known, keys(states)).clamp(max=len(known) - 1)
        found = nodes[place]
        other = (self.states[found] != states).any(1)
        # States that share a key lie side by side.
        for step in range(1, self._most_alike):
            if not bool(other.any()):
                break
            found = torch.where(other, nodes[(place + step).clamp(max=len(known) - 1)], found)
            other = (self.states[found] != states).any(1)
        if (row := first_true(other)) is not None:
            raise ValueError(f"the state {states[row].tolist()} (row {row}) is none that the environment can reach.")
        return found

    @cached_property
    def _lookup(self) -> tuple[Int[Tensor, " nodes"], Int[Tensor, " nodes"]]:
        """The keys of all states, ascending, and the node of each."""
        known, nodes = keys(self.states).sort()
        return known, nodes

    @cached_property
    def _most_alike(self) -> int:
        """How many states share a key at most."""
        return int(torch.unique_consecutive(self._lookup[0], return_counts=True)[1].max())


def enumerate_states(environment: Environment, limit: int = 100_000) -> StateGraph:
    """Find every state that ``environment`` can reach, breadth first.

    Args:
        environment: where to look.
        limit: how many states are too many.

    Raises:
        ValueError: if there are more than ``limit`` states; or if the environment breaks the protocol: its steps close
            a circle, an initial state has states before it, two initial states are alike or share a state after them,
            or a reward is not finite.
    """
    frontier = environment.initial_states
    number = {tuple(state): node for node, state in enumerate(frontier.tolist())}
    if len(number) < len(frontier):
        raise ValueError("two initial states are alike: write the condition into the state.")
    found, sources, targets, actions = [frontier], [], [], []
    while len(frontier):
        first = len(number) - len(frontier)
        row, action = torch.nonzero(environment.forward_mask(frontier), as_tuple=True)
        after = environment.step(frontier[row], action)
        known = len(number)
        # A new state takes the next number.
        target = torch.tensor([number.setdefault(tuple(state), len(number)) for state in after.tolist()]).to(row)
        if len(number) > limit:
            raise ValueError(f"the environment has more than {limit:,} states; take a smaller one or raise `limit`.")
        # Of the rows that are a new state, any one stands for it.
        new = torch.nonzero(target >= known).squeeze(1)
        some_row = new.new_empty(len(number) - known).scatter_(0, target[new] - known, new)
        frontier = after[some_row]
        found.append(frontier)
        sources.append(first + row)
        targets.append(target)
        actions.append(action)
    return _graph(environment, torch.cat(found), torch.cat(sources), torch.cat(targets), torch.cat(actions))


def _graph(environment: Environment, found: Tensor, source: Tensor, target: Tensor, action: Tensor) -> StateGraph:
    level = longest_path(source, target, len(found))
    if (late := first_true(level[: len(environment.initial_states)] > 0)) is not None:
        state = found[late].tolist()
        raise ValueError(f"the initial state {state} can be reached from another state; no step may lead into one.")
    # A state that paths of different lengths lead to comes after all of them.
    order = torch.argsort(level, stable=True)
    number = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    by_source = torch.argsort(number[source], stable=True)
    dag = Dag.from_edges(number[source][by_source], number[target][by_source], len(found))
    # States that follow two initial states are refused here.
    _ = dag.root_of
    states = found[order]
    log_reward = environment.log_reward(states[dag.terminals]).double()
    if (worst := first_true(~log_reward.isfinite())) is not None:
        state = states[dag.terminals[worst]].tolist()
        raise ValueError(f"log_reward must be finite; it is {float(log_reward[worst])} at the state {state}.")
    return StateGraph(dag, states, action[by_source], log_reward)
