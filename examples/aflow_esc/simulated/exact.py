"""Exact flows and values of the simulated world, in its deterministic mode unless said otherwise.

A prefix matters to the future only through its `Node`: the hidden state, how many turns were taken, and the sum of
integer turn rewards. Dynamic programming over nodes therefore gives what a sum over all paths would.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.aflow_esc.scenes import SupportScene, scene_of
from examples.aflow_esc.simulated import world
from examples.aflow_esc.simulated.players import path_of, prior_log_probs
from examples.aflow_esc.simulated.world import Hidden, Temper
from examples.aflow_esc.strategies import AFLOW
from gflowdial.dialogue.values import Dialogue

REWARD_UNIT = 25
"""A turn's reward is E + I + N + 2S over this: the paper's weights .1, .1, .1, .2 over 2.5."""


class Node(NamedTuple):
    """All of a prefix that the future depends on; ``total`` is the sum of turn rewards in units of 1/25."""

    hidden: Hidden
    turn: int
    total: int


NodePolicy = Callable[[Node], NDArray[np.float64]]
"""Log-probabilities of the actions ``[A]`` at a node."""


def root(scene: SupportScene) -> Node:
    """The node of the prefix that holds the opening alone."""
    return Node(world.temper(scene).start, 0, 0)


def uniform_policy(node: Node) -> NDArray[np.float64]:  # noqa: ARG001
    """Every strategy alike."""
    return np.full(len(AFLOW), -np.log(len(AFLOW)))


def prior_policy(node: Node) -> NDArray[np.float64]:
    """The simulated prior."""
    return prior_log_probs(node.hidden)


class Outcome(NamedTuple):
    """What a policy can expect in a scene.

    Attributes:
        expected_return: E[G].
        success: probability that the seeker ends the talk helped.
        left: probability that the seeker leaves.
        turns: expected number of the supporter's turns.
    """

    expected_return: float
    success: float
    left: float
    turns: float


@dataclass(frozen=True)
class ExactFlow:
    """The flow for R = exp(G/τ) on one scene's tree of histories (P_B = 1): log F(s) = log Σ R over the leaves below.

    Attributes:
        scene: where the tree starts.
        tau: the temperature τ > 0.
        horizon: the supporter's turns after which the dialogue ends.
    """

    scene: SupportScene
    tau: float
    horizon: int = 4
    _known: dict[Node, float] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"the temperature must be above 0, not {self.tau}")

    @property
    def log_z(self) -> float:
        """log F of the opening."""
        return self.log_flow(root(self.scene))

    def log_flow(self, node: Node) -> float:
        """log F(node); at an end, G/τ."""
        if node not in self._known:
            if _ended(node, self.horizon):
                self._known[node] = _return(node) / self.tau
            else:
                self._known[node] = float(np.logaddexp.reduce(self._child_log_flows(node)))
        return self._known[node]

    def policy(self, node: Node) -> NDArray[np.float64]:
        """The flow policy log P_F(a|s) = log F(sa) − log F(s), ``[A]``."""
        return self._child_log_flows(node) - self.log_flow(node)

    def log_policy(self, dialogue: Dialogue) -> NDArray[np.float64]:
        """The flow policy at a prefix that has not ended, ``[A]``."""
        return self.policy(node_of(dialogue))

    def _child_log_flows(self, node: Node) -> NDArray[np.float64]:
        return np.array([self.log_flow(child) for child in _children(world.temper(self.scene), node)])


def node_of(dialogue: Dialogue) -> Node:
    """The node of a prefix of simulated turns."""
    temper, node = world.temper(scene_of(dialogue)), root(scene_of(dialogue))
    for action in path_of(dialogue):
        node = _children(temper, node)[action]
    return node


def best_return(scene: SupportScene, horizon: int = 4) -> float:
    """max G over all paths."""

    def best(node: Node) -> float:
        if _ended(node, horizon):
            return _return(node)
        return max(best(child) for child in _children(temper, node))

    temper = world.temper(scene)
    return best(root(scene))


def evaluate_policy(scene: SupportScene, policy: NodePolicy, horizon: int = 4) -> Outcome:
    """What ``policy`` can expect, by summing over nodes, turn by turn."""
    temper = world.temper(scene)
    mass, outcome = {root(scene): 1.0}, np.zeros(len(Outcome._fields))
    while mass:
        following: dict[Node, float] = {}
        for node, weight in mass.items():
            for child, log_prob in zip(_children(temper, node), policy(node), strict=True):
                following[child] = following.get(child, 0.0) + weight * float(np.exp(log_prob))
        mass = {node: weight for node, weight in following.items() if not _ended(node, horizon)}
        for node, weight in following.items():
            if _ended(node, horizon):
                end = world.status(node.hidden)
                outcome += weight * np.array([_return(node), end == "helped", end == "left", node.turn])
    return Outcome(*map(float, outcome))


def _children(temper: Temper, node: Node) -> list[Node]:
    return [_child(node, world.step(temper, node.hidden, action)) for action in range(len(AFLOW))]


def _child(node: Node, after: Hidden) -> Node:
    empathy, information, naturalness, efficacy = world.scores(node.hidden, after)
    return Node(after, node.turn + 1, node.total + empathy + information + naturalness + 2 * efficacy)


def _ended(node: Node, horizon: int) -> bool:
    return node.turn >= horizon or (node.turn > 0 and world.status(node.hidden) != "continues")


def _return(node: Node) -> float:
    return 0.0 if world.status(node.hidden) == "left" else node.total / (REWARD_UNIT * node.turn)
