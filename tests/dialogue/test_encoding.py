"""Dialogues as tokens: shared turns are shared tokens, and a prefix is the same wherever it is read from."""

import pytest
import torch
from examples.aflow_esc.config import TinyModelConfig
from examples.aflow_esc.dialogues import Dialogue, Scene, Turn
from examples.aflow_esc.encoding import DialogueEncoder
from examples.aflow_esc.environment import SupportEnvironment
from examples.aflow_esc.language_models import load_tokenizer
from examples.aflow_esc.tree_record import TreeRecord
from examples.aflow_esc.trees import read, search_scenes
from transformers import LlamaConfig, LlamaForCausalLM

from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.simulated import simulated_roles
from examples.aflow_esc.strategies import AFLOW, ESCONV, INVENTORIES
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes
from gflowdial.search import SearchConfig

SCENE = Scene("s", "situation", "fear", "job", "I am afraid.")


def encoder(**settings: int) -> DialogueEncoder:
    return DialogueEncoder(load_tokenizer(TinyModelConfig(kind="tiny")), AFLOW, **settings)


@pytest.fixture(scope="module")
def policy() -> LanguageModelPolicy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(encoder().tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    return LanguageModelPolicy.with_lora(LlamaForCausalLM(config), encoder().action_tokens).eval()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[TreeRecord]:
    path = tmp_path_factory.mktemp("trees") / "trees.jsonl"
    environment = SupportEnvironment(simulated_roles(AFLOW, 0, 3), AFLOW, 3)
    search_scenes(environment, bundled_scenes()[:3], 0, SearchConfig(20, 3, 1), path)
    return read(path)


def dialogue(turns: int) -> Dialogue:
    """The supporter has had so many turns; all of it is different text."""
    here = Dialogue.begin(SCENE)
    for number in range(turns):
        strategy = AFLOW.names[number % len(AFLOW)]
        here = here.then(Turn("supporter", f"reply {number}", strategy), Turn("seeker", f"answer {number}"))
    return here


def read_tokens(packed: PackedPrefixes) -> list[list[int]]:
    """The tokens that each read sees, in the order of their positions."""
    found = []
    for at in packed.read_at.tolist():
        seen = packed.visible[at]
        assert packed.position_ids[seen].tolist() == list(range(int(seen.sum())))
        found.append(packed.input_ids[seen].tolist())
    return found


def test_many_dialogues_read_as_one_by_one(policy: LanguageModelPolicy, records: list[TreeRecord]) -> None:
    many = encoder(max_tokens=128)
    dialogues = [record.dialogue(node) for record in records for node in (5, 0, 3, 5, 7)]
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


def test_a_record_and_its_dialogues_have_the_same_tokens(records: list[TreeRecord]) -> None:
    code = encoder()
    for record in records:
        example = code.example(record)
        packed = pack_prefixes(example.parent, example.tokens, [True] * len(record.nodes), code.branch)
        dialogues = [record.dialogue(node) for node in range(len(record.nodes))]
        assert read_tokens(packed) == read_tokens(code.pack(dialogues))
        assert read_tokens(packed) == [code.transcript(each) + code.branch for each in dialogues]


def test_an_example_carries_what_the_search_found(records: list[TreeRecord]) -> None:
    example = encoder().example(records[0])
    nodes = records[0].nodes
    assert example.action.tolist() == records[0].actions
    assert example.visits.tolist() == [node.visits for node in nodes]
    assert example.value.tolist() == [node.value for node in nodes]
    leaves = [node.leaf_return for node in nodes if node.leaf_return is not None]
    assert example.leaf_return[example.is_leaf()].tolist() == leaves
    inner = ~example.is_leaf()
    priors = [node.prior for node in nodes]
    torch.testing.assert_close(
        torch.from_numpy(example.log_prior[inner]).exp(),
        torch.tensor([prior for prior, kept in zip(priors, inner, strict=True) if kept], dtype=torch.float64),
    )


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


def test_decisions_are_the_labelled_answers_that_fit() -> None:
    chat = Dialogue(
        SCENE,
        (
            Turn("supporter", "welcome", AFLOW.names[0]),
            Turn("seeker", "hello"),
            Turn("supporter", "one", AFLOW.names[1]),
            Turn("seeker", "yes"),
            Turn("supporter", "no label"),
            Turn("seeker", "no"),
            Turn("supporter", "two", AFLOW.names[2]),
        ),
    )
    assert encoder().decisions(chat) == [2, 6]
    assert encoder().decisions(chat, limit=1) == [2]
    code = encoder()
    room = len(code.transcript(Dialogue(SCENE, chat.turns[:6]))) + len(code.branch)
    assert encoder(max_tokens=room).decisions(chat) == [2, 6]
    assert encoder(max_tokens=room - 1).decisions(chat) == [2]


def test_a_recorded_dialogue_is_read_where_its_supporter_chose() -> None:
    code = encoder()
    chat = dialogue(4)
    decisions = code.decisions(chat)[1:]
    example = code.recorded_example(chat, decisions)
    assert example.action.tolist() == [-1, 1, 2, 3]
    packed = pack_prefixes(example.parent, example.tokens, (~example.is_leaf()).tolist(), code.branch)
    prefixes = [Dialogue(chat.scene, chat.turns[:turn]) for turn in decisions]
    assert read_tokens(packed) == read_tokens(code.pack(prefixes))


@pytest.mark.parametrize("name", INVENTORIES)
def test_names_are_told_apart_by_their_first_token(name: str) -> None:
    code = DialogueEncoder(encoder().tokenizer, INVENTORIES[name])
    assert len(set(code.action_tokens)) == len(INVENTORIES[name])


def test_names_that_cannot_be_told_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code = DialogueEncoder(encoder().tokenizer, ESCONV)
    monkeypatch.setattr(DialogueEncoder, "_tokens", lambda _, text: [7, len(text)])
    with pytest.raises(ValueError, match="two strategies of inventory 'esconv' begin with the same token"):
        _ = code.action_tokens


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
