"""A student who answers by chance, learned from samples: losses for chance beside plain ones.

The tutoring task over 2 turns, 9 scenes, at τ = 0.1. Every history is known, and so is the flow that averages over the
student's answers, `oracle.expected_flows`. The learner sees answers only as they are drawn: "fresh" draws n answers to
every move at every state in each step and forgets them, "kept" keeps them all, "fixed" draws them once, as one search
does. A state's logits and log F are a
table. Total variation is that of whole conversations, with the student's true probabilities, to the exact flow.

Run: python -m benchmarks chance
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table
from examples.tutoring import MOVES, TASK, scenes, simulated
from gflowdial import Forest, losses, oracle, segments
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.metrics import total_variation
from gflowdial.search import SearchTree, enumerate_tree
from gflowdial.segments import Segments

SCENES, TURNS, TEMPERATURE = 9, 2, 0.1
SEEDS, STEPS, LEARNING_RATE = 5, 300, 0.1
Answers = Literal["fresh", "kept", "fixed"]
Weights = Literal["frequency", "known", "learned"]
T_95 = 2.776
"""Student's t of a 95 % interval with 4 degrees of freedom, for 5 seeds."""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        loss: a name of `losses.LOSSES`.
        draws: answers drawn to each move.
        answers: whether they are drawn anew in each step and forgotten, or kept, or drawn once.
        weights: what stands for the probability of an answer: its frequency among the draws, its known probability
            among the answers seen, or that of a model that learns from one draw per move and step.
    """

    loss: str
    draws: int
    answers: Answers = "fresh"
    weights: Weights = "frequency"


CASES = (
    *(Case("expected_detailed_balance", draws) for draws in (1, 2, 4, 16)),
    *(Case("expected_detailed_balance", 1, "kept", w) for w in ("frequency", "learned")),
    *(Case("expected_detailed_balance", draws, "fixed", w) for w in ("frequency", "known") for draws in (1, 4, 16)),
    *(Case("stochastic_detailed_balance", draws, weights="learned") for draws in (1, 16)),
    *(Case(f"{plain}_balance", draws) for plain in ("detailed", "subtrajectory", "trajectory") for draws in (1, 16)),
)


@dataclass(frozen=True, eq=False)
class World:
    """All histories of the scenes, once per seed; seeds are independent copies in one forest."""

    forest: Forest
    chance: Tensor
    log_chance: Tensor
    returns: Tensor

    @staticmethod
    def enumerated() -> "World":
        environment = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES, TURNS)
        tree = SearchTree.merge(
            [enumerate_tree(environment, [DialogueState.begin(scene)]) for scene in scenes()[:SCENES]]
        )
        return World(
            Forest.concatenate([tree.forest] * SEEDS),
            tree.chance.repeat(SEEDS),
            tree.log_chance[tree.forest.edge_child].repeat(SEEDS),
            tree.leaf_return.repeat(SEEDS),
        )

    @cached_property
    def log_reward(self) -> Tensor:
        return self.returns / TEMPERATURE

    @cached_property
    def by_chance(self) -> Tensor:
        """Which edges are answers."""
        return self.chance[self.forest.edge_parent]

    @cached_property
    def siblings(self) -> Segments:
        return Segments.from_ids(self.forest.edge_parent, self.forest.num_nodes)

    def normalised(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the edges out of each node."""
        return logits - segments.logsumexp(logits, self.siblings)[self.forest.edge_parent]

    def drawn(self, draws: int, generator: torch.Generator) -> Tensor:
        """How often each answer was drawn, ``[edges]``; 1 for each move of the tutor."""
        if draws == 0:
            return torch.ones(self.forest.num_edges)
        left = torch.full((self.forest.num_nodes,), float(draws))
        mass = torch.ones(self.forest.num_nodes, dtype=torch.float64)
        count = torch.ones(self.forest.num_edges)
        # A multinomial as binomials, one answer after the other.
        for edges in self.ranks:
            above = self.forest.edge_parent[edges]
            share = (self.log_chance[edges].exp() / mass[above]).clamp(max=1.0)
            count[edges] = torch.binomial(left[above].double(), share, generator=generator).float()
            left[above] -= count[edges]
            mass[above] -= self.log_chance[edges].exp()
        return count

    @cached_property
    def ranks(self) -> list[Tensor]:
        """The first answers of all chance nodes, the second ones, and so on."""
        edges = self.by_chance.nonzero().squeeze(1)
        seen: dict[int, int] = {}
        rank = []
        for above in self.forest.edge_parent[edges].tolist():
            rank.append(seen.get(above, 0))
            seen[above] = rank[-1] + 1
        return [edges[torch.tensor(rank) == r] for r in range(max(rank) + 1)]

    def exact(self) -> Tensor:
        """log P_F of the expected flow; of chance at answers."""
        return oracle.expected_flows(self.forest, self.log_reward, chance=self.chance, log_chance=self.log_chance)[1]

    def measure(self, log_pf: Tensor) -> tuple[Tensor, Tensor]:
        """Total variation to the exact flow and expected return of each seed, means over scenes."""
        forest, trees = self.forest, Segments.from_ids(self.forest.leaf_tree, self.forest.num_trees)
        log_p = forest.leaf_sum(torch.where(self.by_chance, self.log_chance, log_pf))
        apart = total_variation(log_p, forest.leaf_sum(self.exact()), trees)
        earned = segments.sum(log_p.exp() * self.returns, trees)
        return apart.view(SEEDS, -1).mean(1), earned.view(SEEDS, -1).mean(1)


@dataclass(frozen=True, eq=False)
class Seen:
    """The part of a world that draws have shown.

    Attributes:
        forest: its trees.
        node, edge, leaf: where its nodes, edges and leaves are in the world.
    """

    forest: Forest
    node: Tensor
    edge: Tensor
    leaf: Tensor

    @staticmethod
    def of(world: World, count: Tensor) -> "Seen":
        forest = world.forest
        kept = forest.root_sum((count == 0).double()) == 0
        place = kept.long().cumsum(0) - 1
        above = forest.parent[kept]
        part = Forest(torch.where(above < 0, -1, place[above.clamp(min=0)]))
        return Seen(part, kept.nonzero().squeeze(1), kept[forest.edge_child].nonzero().squeeze(1),
                    kept[forest.leaves].nonzero().squeeze(1))  # fmt: skip


def train(world: World, case: Case, seed: int = 0, steps: int = STEPS) -> Tensor:
    """log P_F of each edge after ``steps`` of Adam from the uniform policy."""
    generator = torch.Generator().manual_seed(seed)
    forest = world.forest
    log_flow = torch.full((forest.num_nodes,), float(world.log_reward.mean()), dtype=torch.float64).requires_grad_()
    logits, model = (torch.zeros(forest.num_edges, dtype=torch.float64).requires_grad_() for _ in range(2))
    optimiser = torch.optim.Adam([log_flow, logits, model], lr=LEARNING_RATE, eps=1e-15)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    count = world.drawn(case.draws, generator)
    seen = Seen.of(world, count)
    for _ in range(steps):
        if case.answers != "fixed":
            drawn = world.drawn(case.draws, generator)
            count = count + drawn if case.answers == "kept" else drawn
            seen = Seen.of(world, count)
        optimiser.zero_grad()
        answers = log_answers(world, case, count, model)
        value = loss(world, case, seen, log_flow, world.normalised(logits), answers)
        if case.weights == "learned":
            once = Seen.of(world, world.drawn(1, generator))
            learned = torch.where(world.by_chance, world.normalised(model), 0.0)[once.edge]
            value = value + losses.dynamics_likelihood(learned, once.forest)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return world.normalised(logits.detach())


def log_answers(world: World, case: Case, count: Tensor, model: Tensor) -> Tensor:
    """What stands for the log-probability of each answer that was drawn; no gradient reaches it."""
    if case.weights == "learned":
        return world.normalised(model.detach())
    if case.weights == "frequency":
        return world.normalised(count.double().log())
    return world.normalised(torch.where(count > 0, world.log_chance, -torch.inf))


def loss(world: World, case: Case, seen: Seen, log_flow: Tensor, log_pf: Tensor, answers: Tensor) -> Tensor:
    """The loss of ``case`` on what was drawn. Plain losses take an answer for the certain effect of a move."""
    forest, flow, by_chance = seen.forest, log_flow[seen.node], world.by_chance[seen.edge]
    reward, moves = world.log_reward[seen.leaf], torch.where(by_chance, 0.0, log_pf[seen.edge])
    answered = torch.where(by_chance, answers[seen.edge], 0.0)
    if case.loss == "expected_detailed_balance":
        chance = world.chance[seen.node]
        return losses.expected_detailed_balance(flow, moves + answered, reward, forest, chance=chance)
    if case.loss == "stochastic_detailed_balance":
        return losses.stochastic_detailed_balance(flow, moves, None, reward, forest, log_dynamics=answered)
    if case.loss == "trajectory_balance":
        return losses.trajectory_balance(flow[forest.roots], moves, None, reward, forest)
    plain = losses.detailed_balance if case.loss == "detailed_balance" else losses.subtrajectory_balance
    return plain(flow, moves, None, reward, forest)


def interval(values: Tensor) -> tuple[float, float]:
    """The mean over seeds and the half-width of its 95 % interval."""
    return float(values.mean()), T_95 * float(values.std()) / math.sqrt(len(values))


def study() -> list[dict[str, Any]]:
    """One row per case, between the uniform policy and the exact flow."""
    world = World.enumerated()
    uniform, exact = world.normalised(torch.zeros(world.forest.num_edges).double()), world.exact()

    def row(name: str, answers: str, draws: int, weights: str, log_pf: Tensor) -> dict[str, Any]:
        apart, earned = world.measure(log_pf)
        found = {"loss": name, "answers": answers, "draws": draws, "weights": weights}
        found |= {"total variation": interval(apart), "expected return": interval(earned)}
        print(found, flush=True)
        return found

    rows = [row("uniform policy", "", 0, "", uniform)]
    for case in CASES:
        weighted = case.loss.startswith(("expected", "stochastic"))
        rows.append(row(case.loss, case.answers, case.draws, case.weights if weighted else "", train(world, case)))
    return [*rows, row("exact expected flow", "", 0, "", exact)]


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        numbers = ["{:.3f} ± {:.3f}".format(*row[name]) for name in ("total variation", "expected return")]
        name = f"`{row['loss']}`" if row["draws"] else row["loss"]
        lines.append([name, row["answers"], str(row["draws"] or ""), row["weights"], *numbers])
    return table(["loss", "answers", "n", "probabilities of answers", "TV", "E[G]"], lines)


def main() -> None:
    torch.set_num_threads(1)
    rows = study()
    setup = {"scenes": SCENES, "turns": TURNS, "temperature": TEMPERATURE, "seeds": SEEDS, "steps": STEPS}
    path = write_results("chance", {"setup": setup, "rows": rows})
    write_table("chance", markdown(rows))
    print(f"{markdown(rows)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
