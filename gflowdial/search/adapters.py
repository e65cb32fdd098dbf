"""Environments meet: search in any `gflowdial.envs.Environment`, and a search environment as one of those."""

from collections.abc import Callable, Sequence
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.envs.environment import Environment
from gflowdial.envs.move_sequences import MoveSequences
from gflowdial.search.answers import ask_prior, check_finite, take_step
from gflowdial.search.environment import AnyEnvironment, ChanceEnvironment, State, Transition
from gflowdial.search.watching import watch
from gflowdial.shapes import Bool, Float, Int, Tensor


class SearchView:
    """An environment of `gflowdial.envs` as search takes it: G = log R of the terminal state, so exp(G) is the target.

    States are tuples of integers. A terminal state can be reached along several paths, which are different nodes of a
    tree. The turn into a terminal state earns log R, every other turn nothing. A rollout must reach a terminal state.

    ::

        view = SearchView(Hypergrid(dimensions=2, side=4))
        tree = search(view, view.roots, seeds=[0], config=SearchConfig(rollout_length=7))

    Args:
        environment: where to act.
        prior: log-probabilities of the actions, ``[states, width] -> [states, actions]``, such as the
            ``forward_policy`` of an estimator; by default uniform over the valid actions.
    """

    def __init__(self, environment: Environment, prior: Callable[[Tensor], Tensor] | None = None) -> None:
        self.environment, self.prior = environment, prior
        self.num_actions = environment.num_actions

    @property
    def roots(self) -> list[tuple[int, ...]]:
        """The initial states."""
        return [tuple(state) for state in self.environment.initial_states.tolist()]

    def log_prior(self, states: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        rows = self._rows(states)
        valid = self.environment.forward_mask(rows)
        with torch.no_grad():
            scores = torch.zeros(valid.shape) if self.prior is None else self.prior(rows)
        # What a policy gives to the valid actions is normalised already, up to its precision.
        scores = scores.to(valid.device).double().masked_fill(~valid, -torch.inf)
        return np.asarray(scores.log_softmax(1).cpu().numpy())

    def step(self, states: Sequence[tuple[int, ...]], actions: NDArray[np.int64]) -> list[Transition[tuple[int, ...]]]:
        rows = self._rows(states)
        after = self.environment.step(rows, torch.from_numpy(actions).to(rows.device))
        ended = ~self.environment.forward_mask(after).any(1)
        reward = torch.zeros(len(after), dtype=torch.float64, device=rows.device)
        if bool(ended.any()):
            reward[ended] = self.environment.log_reward(after[ended]).double()
        answers = zip(after.tolist(), reward.tolist(), ended.tolist(), strict=True)
        return [Transition(tuple(state), earned, over) for state, earned, over in answers]

    def trajectory_return(self, rewards: Sequence[float], state: tuple[int, ...]) -> float:
        if bool(self.environment.forward_mask(self._rows([state])).any()):
            raise ValueError(
                f"the state {list(state)} at the end of a rollout is not terminal and has no reward: raise "
                "rollout_length to the longest trajectory"
            )
        return sum(rewards)

    def _rows(self, states: Sequence[tuple[int, ...]]) -> Tensor:
        return torch.tensor(states, device=self.environment.initial_states.device)


class HistoryEnvironment(MoveSequences, Generic[State]):
    """A deterministic search environment as one of `gflowdial.envs`: trajectories, replay and every loss run in it.

    A state is the number of the root and the actions so far, −1 for turns to come. log R = G / temperature. The other
    environment's states are remembered by their history: it is asked once for each step and each prior.

    Args:
        environment: the world; it answers a state and an action always alike.
        roots: where trajectories start, which are the conditions; none has ended.
        max_depth: the greatest number of actions; a history of this length is terminal.
        temperature: τ > 0 of the target R = exp(G/τ).
        device: where states live.

    Raises:
        ValueError: the environment is stochastic, there are no roots, or an option is out of range.
    """

    def __init__(
        self,
        environment: AnyEnvironment[State],
        roots: Sequence[State],
        max_depth: int,
        temperature: float = 1.0,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if isinstance(environment, ChanceEnvironment):
            raise ValueError(
                f"{type(environment).__name__} is stochastic, so a history of actions does not determine its state: "
                "use `search` or `enumerate_tree`, whose trees have chance nodes"
            )
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature is {temperature}: give a finite number above 0")
        super().__init__(len(roots), environment.num_actions, max_depth, self._log_return, device=device)
        self.environment, self.max_depth, self.temperature = environment, max_depth, temperature
        self._world = watch(environment, roots)
        # By history (the root's number, then actions): state, rewards so far, and which actions are allowed, if any.
        self._known: dict[tuple[int, ...], tuple[State, tuple[float, ...], NDArray[np.bool_]]] = {}
        self._remember([(root,) for root in range(len(roots))], [Transition(root, 0.0, False) for root in roots])

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        allowed = [self._known[history][2] for history in self._visit(states)]
        return torch.from_numpy(np.array(allowed, bool).reshape(len(states), self.num_actions)).to(states.device)

    def _log_return(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        ends = [self._known[history] for history in self._visit(states)]
        returns = np.array([self._world.trajectory_return(rewards, state) for state, rewards, _ in ends], float)
        check_finite("return", returns)
        return torch.from_numpy(returns).to(states.device) / self.temperature

    def _visit(self, states: Tensor) -> list[tuple[int, ...]]:
        """The histories of states, all of them known: what leads to a new one is asked for, one batch per length."""
        histories = [tuple(number for number in row if number >= 0) for row in states.tolist()]
        for length in range(2, self.max_depth + 2):
            new = list({h[:length]: None for h in histories if len(h) >= length and h[:length] not in self._known})
            if new:
                before = [self._known[history[:-1]][0] for history in new]
                self._remember(new, take_step(self._world, before, np.array([history[-1] for history in new])))
        return histories

    def _remember(self, histories: list[tuple[int, ...]], transitions: list[Transition[State]]) -> None:
        goes_on = [len(h) <= self.max_depth and not t.ended for h, t in zip(histories, transitions, strict=True)]
        allowed = np.zeros((len(histories), self.num_actions), bool)
        if any(goes_on):
            open_states = [t.state for t, more in zip(transitions, goes_on, strict=True) if more]
            allowed[goes_on] = ask_prior(self._world, open_states) > -np.inf
        for history, transition, mask in zip(histories, transitions, allowed, strict=True):
            rewards = (*self._known[history[:-1]][1], transition.reward) if len(history) > 1 else ()
            self._known[history] = (transition.state, rewards, mask)
