"""Dialogues as tokens: shared turns are shared tokens, and a prefix is the same wherever it is read from."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from examples.aflow_esc import tokenizer
from examples.aflow_esc.scenes import SupportScene, bundled_scenes
from examples.aflow_esc.simulated import simulated_roles
from examples.aflow_esc.strategies import AFLOW, ESCONV, EXTES
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.encoding import DialogueEncoder, DialogueTexts
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.task import Template
from gflowdial.dialogue.trees import recorded_tree
from gflowdial.dialogue.values import Dialogue, Scene, Turn
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes
from gflowdial.search import SearchConfig, SearchTree, search, tree_seed

TOKENIZER = AutoTokenizer.from_pretrained(Path(str(tokenizer.__file__)).parent)
TEXTS = DialogueTexts(TASK.template, TASK.agent, TASK.partner)
SCENE = SupportScene("s", "I am afraid.", "situation", "fear", "job")


def encoder(**settings: int) -> DialogueEncoder:
    return DialogueEncoder(TOKENIZER, AFLOW, TEXTS, **settings)


@pytest.fixture(scope="module")
def policy() -> LanguageModelPolicy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    return LanguageModelPolicy.with_lora(LlamaForCausalLM(config), encoder().names).eval()


@pytest.fixture(scope="module")
def trees() -> list[SearchTree[DialogueState]]:
    environment = DialogueEnvironment.of(TASK, simulated_roles(), AFLOW, 3)
    scenes = bundled_scenes()[:3]
    roots = [DialogueState.begin(scene) for scene in scenes]
    return search(environment, roots, [tree_seed(0, scene.id) for scene in scenes], SearchConfig(20, 3, 1)).split()


def dialogue(turns: int) -> Dialogue:
    """The agent has had so many turns; all of it is different text."""
    here = Dialogue.begin(SCENE)
    for number in range(turns):
        move = AFLOW.names[number % len(AFLOW)]
        here = here.then(Turn("agent", f"reply {number}", move), Turn("partner", f"answer {number}"))
    return here


def read_tokens(packed: PackedPrefixes) -> list[list[int]]:
    """The tokens that each read sees, in the order of their positions."""
    found = []
    for at in packed.read_at.tolist():
        seen = packed.visible[at]
        assert packed.position_ids[seen].tolist() == list(range(int(seen.sum())))
        found.append(packed.input_ids[seen].tolist())
    return found


def test_many_dialogues_read_as_one_by_one(policy: LanguageModelPolicy, trees: list[SearchTree[DialogueState]]) -> None:
    many = encoder(max_tokens=128)
    dialogues = [tree.states[node].dialogue for tree in trees for node in (5, 0, 3, 5, 7)]
    with torch.no_grad():
        together = policy(many.pack(dialogues)).log_policy
        alone = torch.cat([policy(many.pack([each])).log_policy for each in dialogues])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert (alone[0] - alone[1]).abs().max() > 1e-2


def test_what_dialogues_share_is_laid_out_once() -> None:
    dialogues = [dialogue(turns) for turns in (3, 1, 2)]
    packed = encoder().pack(dialogues)
    segments = len(encoder().transcript(dialogue(3))) + 3 * len(encoder().branch)
    assert packed.num_tokens == segments


def test_a_tree_and_its_dialogues_have_the_same_tokens(trees: list[SearchTree[DialogueState]]) -> None:
    code = encoder()
    for tree in trees:
        tokens = code.tree_tokens(tree)
        packed = pack_prefixes(tree.forest.parent.tolist(), tokens, [True] * len(tokens), code.branch)
        dialogues = [state.dialogue for state in tree.states]
        assert read_tokens(packed) == read_tokens(code.pack(dialogues))
        assert read_tokens(packed) == [code.transcript(each) + code.branch for each in dialogues]
    whole = SearchTree.merge(trees)
    assert code.tree_tokens(whole) == [tokens for tree in trees for tokens in code.tree_tokens(tree)]


def test_trees_and_their_tokens_are_those_of_before(trees: list[SearchTree[DialogueState]]) -> None:
    """Shape, tokens, actions, visits, values and rewards, as the example had them when it had its own environment."""
    found = []
    for tree in trees:
        columns = [tree.action, tree.visits, tree.value, tree.reward]
        rounded = [np.round(column.numpy(), 9).tolist() for column in columns]
        content = [tree.forest.parent.tolist(), encoder().tree_tokens(tree), *rounded]
        found.append(hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16])
    assert found == ["ee9c536a90f839cd", "0634055dc4d5bcc9", "9ebd66ead5ecfdad"]


def test_long_dialogues_lose_whole_early_turns() -> None:
    long = dialogue(6)
    code = encoder()
    opening, turns = code.opening(SCENE), [code.turn(turn) for turn in long.turns]
    for first in (1, 4, 11):
        kept = opening + [token for turn in turns[first:] for token in turn] + code.branch
        for spare in (0, len(turns[first - 1]) - 1):
            (found,) = read_tokens(encoder(max_tokens=len(kept) + spare).pack([long]))
            assert found == kept
    whole = len(code.transcript(long)) + len(code.branch)
    (found,) = read_tokens(encoder(max_tokens=whole).pack([long]))
    assert len(found) == whole


CHAT = Dialogue(
    SCENE,
    (
        Turn("agent", "welcome", AFLOW.names[0]),
        Turn("partner", "hello"),
        Turn("agent", "one", AFLOW.names[1]),
        Turn("partner", "yes"),
        Turn("agent", "no label"),
        Turn("partner", "no"),
        Turn("agent", "two", AFLOW.names[2]),
    ),
)


def test_decisions_are_the_labelled_answers_that_fit() -> None:
    assert encoder().decisions(CHAT) == [2, 6]
    assert encoder().decisions(CHAT, limit=1) == [2]
    code = encoder()
    room = len(code.transcript(Dialogue(SCENE, CHAT.turns[:6]))) + len(code.branch)
    assert encoder(max_tokens=room).decisions(CHAT) == [2, 6]
    assert encoder(max_tokens=room - 1).decisions(CHAT) == [2]


def test_a_recorded_dialogue_is_read_where_its_agent_chose() -> None:
    code = encoder()
    chat = dialogue(4)
    decisions = code.decisions(chat)[1:]
    tree = recorded_tree(chat, decisions, AFLOW)
    assert tree.action.tolist() == [-1, 1, 2, 3]
    assert tree.leaf_return.tolist() == [1.0]
    inner = (tree.forest.num_children > 0).tolist()
    packed = pack_prefixes(tree.forest.parent.tolist(), code.tree_tokens(tree), inner, code.branch)
    prefixes = [Dialogue(chat.scene, chat.turns[:turn]) for turn in decisions]
    assert read_tokens(packed) == read_tokens(code.pack(prefixes))


OPENING = [592, 688, 612, 559, 1945, 67, 15, 266, 411, 319, 336, 326, 742, 70, 318, 365, 631, 80]
"""The scene, a greeting with its move, and the seeker's first words."""
FIRST = [266, 421, 434, 269, 70, 433, 90, 279]
SECOND = [434, 475, 222, 77, 363, 326, 433, 475]


@pytest.mark.parametrize(
    ("decisions", "tokens", "action"),
    [
        ([2, 6], [OPENING, FIRST + SECOND, [266, 422, 434, 1026, 80]], [-1, 1, 2]),
        ([2], [OPENING, FIRST], [-1, 1]),
    ],
)
def test_a_recorded_dialogue_has_the_tokens_of_before(
    decisions: list[int], tokens: list[list[int]], action: list[int]
) -> None:
    tree = recorded_tree(CHAT, decisions, AFLOW)
    assert encoder().tree_tokens(tree) == tokens
    assert tree.action.tolist() == action
    assert tree.forest.parent.tolist() == list(range(-1, len(decisions)))
    assert tree.visits.tolist() == [1] * len(action)
    assert tree.value.tolist() == [1.0] * len(action)
    torch.testing.assert_close(tree.log_prior.exp(), torch.full((len(action), 8), 1 / 8, dtype=torch.float64))


@pytest.mark.parametrize("inventory", [AFLOW, ESCONV, EXTES], ids=lambda inventory: inventory.name)
def test_names_are_told_apart_by_their_first_token(inventory: Inventory) -> None:
    code = DialogueEncoder(TOKENIZER, inventory, TEXTS)
    assert all(len(name) == 1 for name in code.names)
    assert len({name[0] for name in code.names}) == len(inventory)


def test_another_task_has_other_texts() -> None:
    scene = Scene("s", "Hello {there}.")
    said = Dialogue.begin(scene).then(Turn("agent", "Hi.", "Ask"), Turn("partner", "Bye."))
    plain = ["Agent and Partner talk.", "\nPartner: Hello {there}.", "\nMove: Ask\nAgent: Hi.", "\nPartner: Bye."]
    texts = DialogueTexts(Template(), "Agent", "Partner")
    assert list(texts.of([said])) == plain
    code = DialogueEncoder(TOKENIZER, AFLOW, texts)
    assert TOKENIZER.decode(code.transcript(said)) == "".join(plain)
    assert TOKENIZER.decode(code.branch) == "\nMove:"


def test_what_length_costs_is_counted() -> None:
    long = dialogue(6)
    free, tight = encoder(max_tokens=4096), encoder(max_tokens=60)
    assert free.dropped_turns(long) == free.too_long(long) == 0
    kept = read_tokens(tight.pack([long]))[0]
    left = long.turns[tight.dropped_turns(long) :]
    assert 0 < len(left) < len(long.turns)
    assert kept == [*tight.opening(SCENE), *(token for turn in left for token in tight.turn(turn)), *tight.branch]
    assert tight.too_long(long) + len(tight.decisions(long)) == len(free.decisions(long)) == 6
    assert tight.too_long(long) > 0
    assert tight.too_long(long, limit=1) == 0
