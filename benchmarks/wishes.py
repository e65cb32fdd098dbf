"""One policy for every wish, beside policies that were trained for one wish alone.

Emotional support with simulated roles: generated scenes of (emotion, problem) pairs, of which a fifth is held out.
Each step takes 8 random states of an enumerated scene with all continuations, consistent SubTB(0.9), all weights of the
small language model. Wishes of training: τ log-uniform in [0.02, 0.3], weights uniform on the simplex, none within 0.2
(sum of absolute differences) of those that are asked for.

Run: python -m benchmarks wishes
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table
from examples.aflow_esc.simulated import simulated_roles
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.encoding import DialogueEncoder, DialogueTexts
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.language_models import train_tiny
from gflowdial.dialogue.model_config import TinyModelConfig
from gflowdial.dialogue.outcomes import EnumeratedScene, greedy_log_pf, policy_log_pf
from gflowdial.dialogue.play import play
from gflowdial.dialogue.policies import LearnedPolicy, PriorPolicy
from gflowdial.dialogue.splits import first_of_each, split_by_scene
from gflowdial.dialogue.values import Scene
from gflowdial.dialogue.wishes import Wish, Wishes, drawn_conditions, reweighted
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.losses import loss_on
from gflowdial.search import SearchTree, enumerate_tree
from gflowdial.training.conditions import policy_inputs, readings
from gflowdial.training.trees import Condition, EncodedTree, TreeCollator

SCENES, STEPS, STATES, LEARNING_RATE, PER_STEP = 104, 3000, 8, 1e-3, 4
RANGE = Wishes.of(TASK, (0.02, 0.3), weighted=True)
ASKED = (
    *(Wish(0.1, (0.7, 0.1, 0.1, 0.1)), Wish(0.1, (0.1, 0.6, 0.2, 0.1)), Wish(0.1, (0.15, 0.15, 0.6, 0.1))),
    *(Wish(0.05), Wish(0.05, (0.7, 0.1, 0.1, 0.1)), Wish(0.1)),
)
ENVIRONMENT = DialogueEnvironment.of(TASK, simulated_roles(), TASK.inventory())
Tree = SearchTree[DialogueState]


def encoder() -> DialogueEncoder:
    tokenizer = AutoTokenizer.from_pretrained(TASK.tokenizer)
    return DialogueEncoder(tokenizer, TASK.inventory(), DialogueTexts(TASK.template, TASK.agent, TASK.partner), 512)


def base_model(scenes: Sequence[Scene], folder: Path) -> None:
    """A small language model of the prior's conversations."""
    played = play(ENVIRONMENT, PriorPolicy(ENVIRONMENT.roles.prior), scenes, 8, 0)
    transcripts = [encoder().transcript(episode.dialogue) for episodes in played for episode in episodes]
    config = TinyModelConfig(kind="tiny")
    train_tiny(config, encoder().tokenizer, transcripts, 0, folder, torch.device("cpu"))


def far_from_asked(draw: Callable[[], list[Condition]]) -> list[Condition]:
    """Conditions of which none has weights near those that are asked for."""
    asked = torch.stack([RANGE.vector(wish)[1:] for wish in ASKED if wish.weights]) / len(TASK.criteria)
    kept: list[Condition] = []
    while len(kept) < PER_STEP:
        for condition in draw():
            distance = (asked - condition.vector[1:] / len(TASK.criteria)).abs().sum(1)
            kept += [condition] * bool((distance > 0.2).all())
    return kept[:PER_STEP]


def part(tree: Tree, stream: np.random.Generator) -> Tree:
    """Random states, with all their moves and what leads to them."""
    forest = tree.forest
    acting = (forest.num_children > 0).nonzero().squeeze(1).numpy()
    looked_at = torch.zeros(len(tree.states), dtype=torch.float64)
    looked_at[stream.choice(acting, min(STATES, len(acting)), replace=False)] = 1
    inner = forest.subtree_sum(looked_at) > 0
    return tree.select(inner | ((forest.parent >= 0) & inner[forest.parent.clamp(min=0)]))


def trained(base: Path, trees: Sequence[Tree], wish: Wish | None) -> tuple[LearnedPolicy, float]:
    """A policy for one wish, or for all, and its CPU seconds."""
    set_seed(0)
    here, conditional = encoder(), wish is None
    model = LanguageModelPolicy(
        AutoModelForCausalLM.from_pretrained(base), here.names, conditions=RANGE.conditions if conditional else 0
    )
    draw = partial(drawn_conditions(TASK, RANGE, PER_STEP), torch.Generator().manual_seed(0))
    collator = TreeCollator(
        here.branch,
        0.1 if wish is None else wish.temperature,
        continuations=model.continuations,
        conditions=partial(far_from_asked, draw) if conditional else None,
    )
    under = {id(tree): reweighted(TASK, tree)(wish.weights if wish else None) for tree in trees}
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    stream, began = np.random.default_rng(0), time.process_time()
    for step in range(STEPS):
        rate = LEARNING_RATE * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimiser.param_groups:
            group["lr"] = rate
        tree = trees[int(stream.integers(len(trees)))]
        seen = part(under[id(tree)], stream)
        batch = collator.collate([EncodedTree(seen, here.tree_tokens(seen))])
        output = model(*policy_inputs(batch))
        found = [w * loss_on("subtrajectory_balance", reading) for w, reading in readings(output, batch)]
        optimiser.zero_grad()
        torch.stack(found).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    seconds = time.process_time() - began
    return LearnedPolicy(model.eval(), here, wishes=RANGE if conditional else None, wish=wish), seconds


@torch.no_grad()
def worth(policy: LearnedPolicy, trees: Sequence[Tree], wish: Wish) -> list[float]:
    """TV, E[G] and the likeliest moves' E[G] at a wish, and E[G] of the exact flow; means over scenes."""
    asked = policy.at(wish) if policy.wishes else policy
    rows = []
    for tree in trees:
        under = reweighted(TASK, tree)(wish.weights)
        scene = EnumeratedScene.of(ENVIRONMENT, under, wish.temperature)
        log_pf = policy_log_pf(ENVIRONMENT, under, asked)
        tables = (log_pf, log_pf, greedy_log_pf(under, log_pf), scene.log_flow_pf)
        names = ("total_variation", *["expected_return"] * 3)
        rows.append([float(scene.outcome(t)[name] or 0) for t, name in zip(tables, names, strict=True)])
    return [float(mean) for mean in np.mean(rows, axis=0)]


def main() -> None:
    assert TASK.generate is not None
    assert TASK.group is not None
    train, held_out = split_by_scene(TASK.generate(SCENES), [0.8, 0.2], 0, TASK.group)
    trees = [enumerate_tree(ENVIRONMENT, [DialogueState.begin(scene)]) for scene in train]
    unseen = [enumerate_tree(ENVIRONMENT, [DialogueState.begin(s)]) for s in first_of_each(held_out, TASK.group)]
    head = ["τ", "weights", "TV, once", "TV, alone", "ratio", "E[G], once", "alone", "exact", "greedy, once", "alone"]
    results, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base_model(train, base)
        once, seconds = trained(base, trees, None)
        for wish in ASKED:
            alone, own_seconds = trained(base, trees, wish)
            found, single = worth(once, unseen, wish), worth(alone, unseen, wish)
            results.append({"temperature": wish.temperature, "weights": wish.weights, "once": found, "alone": single})
            weights = "the task's" if wish.weights is None else " ".join(map(str, wish.weights))
            ratio = found[0] / single[0]
            numbers = [found[0], single[0], ratio, found[1], single[1], found[3], found[2], single[2]]
            rows.append([f"{wish.temperature:g}", weights, *(f"{number:.3f}" for number in numbers)])
            print(rows[-1], f"{seconds:.0f} s once, {own_seconds:.0f} s alone", flush=True)
            # What is found is kept where a later wish is stopped.
            write_results("wishes", {"once_seconds": seconds, "held_out_scenes": len(unseen), "wishes": results})
            write_table("wishes", table(head, rows))


if __name__ == "__main__":
    main()
