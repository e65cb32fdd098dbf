"""The rows of an evaluation: which policies they are of, and what each is worth in scenes for one seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from gflowdial.dialogue.config import RunConfig, at_temperature
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.outcomes import (
    EnumeratedScene,
    Outcome,
    best_log_pf,
    greedy_log_pf,
    policy_log_pf,
    sampled_outcome,
)
from gflowdial.dialogue.play import Episode, play
from gflowdial.dialogue.policies import DialoguePolicy, GreedyPolicy, LearnedPolicy, SearchPolicy, UniformPolicy
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.searching import search_config
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue, Scene
from gflowdial.search import SearchTree, count_steps, enumerate_tree

HELD_OUT, TRAINING = "held_out", "training"
"""The parts of the scenes that rows are computed on."""
UNIFORM, PRIOR = "uniform", "lm_prior"
"""The rows of the policies before any training: every move alike, and the language model's own prior."""
EXACT, BEST = "exact_flow", "best"
"""The rows of the policy that samples conversations in exact proportion to exp(G/τ), and of the greatest E[G]."""
_SEARCH = "mcts_"
"""Before the number of simulations: search at test time, which is played also where all can be enumerated."""

Enumerated: TypeAlias = Mapping[str, Sequence[EnumeratedScene]]
"""By part, its scenes, where all conversations can be played through."""


class Cell(NamedTuple):
    """What one row is for one seed in one part of the scenes.

    Attributes:
        outcomes: by scene.
        dropped_turns: early turns that the policy did not get to read because the prefixes were too long for it.
        played: the conversations that were played.
    """

    outcomes: list[Outcome]
    dropped_turns: int
    played: list[Episode]


def greedy(name: str) -> str:
    """The row of a policy that takes its likeliest move."""
    return f"{name}_greedy"


def sampled_row(row: str) -> str:
    """The row of the policy itself, if ``row`` is that of its likeliest move."""
    return row.removesuffix("_greedy")


def is_search(name: str) -> bool:
    """Whether a row is that of search at test time."""
    return name.startswith(_SEARCH)


def depends_on_seed(name: str) -> bool:
    """Whether a policy is another one for each seed."""
    return name not in (UNIFORM, PRIOR, EXACT)


def policy_rows(setting: Setting) -> dict[str, list[str]]:
    """By policy, the rows that are computed from it, in order."""
    config = setting.config
    search = [f"{_SEARCH}{simulations}" for simulations in config.evaluation.search_simulations]
    learned = {method: [method, greedy(method)] for method in config.training.methods}
    exact = {EXACT: [EXACT, greedy(EXACT), BEST]} if setting.is_enumerable else {}
    return {**{name: [name] for name in (UNIFORM, PRIOR, *search)}, **learned, **exact}


def row_names(setting: Setting) -> list[str]:
    """All rows, in order."""
    return [row for rows in policy_rows(setting).values() for row in rows]


def scenes_of(setting: Setting) -> dict[str, list[Scene]]:
    """By part, the scenes that rows are computed on: all held-out ones, and as many of the first for training."""
    held_out = setting.scenes.held_out
    return {HELD_OUT: held_out, TRAINING: setting.scenes.train[: len(held_out)]}


def enumerated_scenes(setting: Setting) -> Enumerated | None:
    """The same with all conversations and the exact flow; None where there are too many."""
    if not setting.is_enumerable:
        return None
    return {part: [enumerated_scene(setting, scene) for scene in scenes] for part, scenes in scenes_of(setting).items()}


def enumerated_scene(setting: Setting, scene: Scene) -> EnumeratedScene:
    """All conversations from a scene, with the exact flow."""
    tree = enumerate_tree(setting.environment, [DialogueState.begin(scene)])
    return EnumeratedScene.of(setting.environment, tree, setting.config.training.temperature)


def evaluate_policy(
    enumerated: Enumerated | None, folder: Path, config: RunConfig, seed: int, name: str
) -> dict[tuple[str, str], Cell]:
    """The cells of one policy for one seed, by part and row; search, which learns nothing, is in held-out scenes alone.

    Args:
        enumerated: see `enumerated_scenes`.
        folder: of the run.
        config: of the evaluation.
        seed: whose policy.
        name: a key of `policy_rows`.
    """
    setting = Setting(config, folder)
    environment = setting.environment
    rows, scenes = policy_rows(setting)[name], scenes_of(setting)
    if is_search(name):
        return {(HELD_OUT, name): _searched(setting, name, scenes[HELD_OUT], seed)}
    policy = None if name == EXACT else policy_of(Run.open(folder), setting, seed, name)
    players = {} if policy is None else dict(zip(rows, [policy, GreedyPolicy(policy, environment)], strict=False))
    cells = {}
    for part in scenes:
        exact = None
        if enumerated is not None:
            _, temperature = at_temperature(name, config.training.temperature)
            exact = _exact(setting, [scene.at(temperature) for scene in enumerated[part]], policy, rows)
        # What a policy reads of enumerated scenes is the same whether it samples or not.
        trees = [scene.tree for scene in (enumerated or {}).get(part, ())]
        dropped = _dropped_turns(setting, policy, [dialogue for tree in trees for dialogue in _long(setting, tree)])
        for row in rows:
            played: list[list[Episode]] = []
            if row in players and (exact is None or (config.evaluation.write_dialogues and part == HELD_OUT)):
                played = play(environment, players[row], scenes[part], config.evaluation.episodes, seed)
            episodes = [episode for some in played for episode in some]
            if exact is None:
                dropped = _dropped_turns(setting, policy, [episode.dialogue for episode in episodes])
            outcomes = [sampled_outcome(environment, some) for some in played] if exact is None else exact[row]
            cells[part, row] = Cell(outcomes, dropped, episodes)
    return cells


def _dropped_turns(setting: Setting, policy: DialoguePolicy | None, read: Sequence[Dialogue]) -> int:
    return sum(map(setting.encoder.dropped_turns, read)) if isinstance(policy, LearnedPolicy) else 0


def _long(setting: Setting, tree: SearchTree[DialogueState]) -> list[Dialogue]:
    """The dialogues of a tree that have more tokens than the policy reads."""
    encoder, forest = setting.encoder, tree.forest
    lengths = torch.tensor([len(tokens) for tokens in encoder.tree_tokens(tree)])
    total = forest.root_sum(lengths[forest.edge_child].double()) + lengths[forest.roots][forest.tree]
    too_long = total + len(encoder.branch) > encoder.max_tokens
    return [tree.states[node].dialogue for node in too_long.nonzero().squeeze(1).tolist()]


def _exact(
    setting: Setting, scenes: Sequence[EnumeratedScene], policy: DialoguePolicy | None, rows: Sequence[str]
) -> dict[str, list[Outcome]]:
    """The outcomes of the rows of a policy, or of the exact flow where there is none, read once in each scene."""
    outcomes: dict[str, list[Outcome]] = {row: [] for row in rows}
    for scene in scenes:
        tree = scene.tree
        log_pf = scene.log_flow_pf if policy is None else policy_log_pf(setting.environment, tree, policy)
        for row in rows:
            if row == BEST:
                shown = best_log_pf(tree)
            else:
                shown = greedy_log_pf(tree, log_pf) if row == greedy(rows[0]) else log_pf
            outcomes[row].append(scene.outcome(shown))
    return outcomes


def _searched(setting: Setting, name: str, scenes: Sequence[Scene], seed: int) -> Cell:
    environment = setting.environment
    counted, steps = count_steps(environment, lambda state: state.dialogue.scene)
    config = search_config(setting, int(name.removeprefix(_SEARCH)))
    played = play(environment, SearchPolicy(counted, config, seed), scenes, setting.config.evaluation.episodes, seed)
    outcomes = [
        sampled_outcome(environment, episodes, float(steps[scene]))
        for scene, episodes in zip(scenes, played, strict=True)
    ]
    return Cell(outcomes, 0, [episode for episodes in played for episode in episodes])


def policy_of(run: Run, setting: Setting, seed: int, name: str) -> DialoguePolicy:
    """The policy of a key of `policy_rows`, but for search and the exact flow."""
    if name == UNIFORM:
        return UniformPolicy(len(setting.inventory))
    if name == PRIOR:
        untrained = setting.untrained(run)
        return LearnedPolicy(untrained.model.eval(), untrained.encoder, reference=True)
    return setting.learned(run, seed, name)
