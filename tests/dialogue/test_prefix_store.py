"""What was read before changes no answer, however little of it is kept; and the store keeps what it says it keeps."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import tiny_model
from transformers import LlamaConfig

from gflowdial.dialogue.local.model import LocalModel, Prompt, _common_beginning
from gflowdial.dialogue.local.prefix_store import BLOCK, PrefixStore

MODEL, WORDS = tiny_model()
MODEL.double()
PLAIN = LocalModel(MODEL, WORDS, batch_size=1, store_bytes=0)
BLOCK_BYTES = 2 * 2 * 2 * 8 * BLOCK * 8
PROBE = PLAIN.probe(["Empathy: ", "This person is "], list("12345"))

lines = st.lists(st.sampled_from(["Seeker: I lost my job.", "Supporter: Go on.", "Seeker: It hurts.", "x"]), max_size=5)
prompts = st.builds(
    lambda system, said, question, answer: Prompt(system, "\n".join([*said, question]), answer),
    st.sampled_from(["You judge conversations between two people.", "You judge.", "s"]),
    lines,
    st.sampled_from(["Which strategy fits best now?", "Rate it.", ""]),
    st.sampled_from(["", "Supporter:"]),
)
calls = st.lists(st.tuples(st.booleans(), st.lists(prompts, min_size=1, max_size=5)), min_size=1, max_size=4)


@given(calls, st.sampled_from([0, 1, 3, 20, 1000]), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_answers_are_those_of_a_model_that_keeps_nothing(
    calls: list[tuple[bool, list[Prompt]]], blocks: int, batch_size: int
) -> None:
    keeping = LocalModel(MODEL, WORDS, batch_size, store_bytes=blocks * BLOCK_BYTES)
    for writes, asked in calls:
        if writes:
            assert keeping.write(asked, 6) == [PLAIN.write([prompt], 6)[0] for prompt in asked]
        else:
            alone = np.concatenate([PLAIN.read([prompt], PROBE) for prompt in asked])
            np.testing.assert_allclose(keeping.read(asked, PROBE), alone, atol=1e-9)
        assert keeping.prefixes.bytes_used <= blocks * BLOCK_BYTES


def tokens_read(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the tokens of every pass of the model but those of one token a row."""
    read: list[int] = []
    forward = model.model.forward

    def count(*args: object, input_ids: torch.Tensor, **kwargs: object) -> object:
        if input_ids.shape[1] > 1:
            read.append(input_ids.numel())
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model.model, "forward", count)
    return read


def test_a_child_reads_what_its_parent_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(MODEL, WORDS)
    parent = Prompt("You judge conversations between two people.", "Seeker: I lost my job last week.\nRate it.")
    child = Prompt(parent.system, "Seeker: I lost my job last week.\nSupporter: Go on.\nRate it.")
    before, after = (model._tokens(model._render(prompt)) for prompt in (parent, child))
    shared = len(_common_beginning([before, after])) // BLOCK * BLOCK
    assert shared >= 3 * BLOCK
    read, branches = tokens_read(model, monkeypatch), sum(map(len, PROBE.beginnings))
    model.read([parent], PROBE)
    model.read([child], PROBE)
    assert read == [len(before) + branches, len(after) - shared + branches]


def test_what_a_call_has_in_common_is_read_once_and_equal_prompts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(MODEL, WORDS)
    asked = [Prompt("You judge conversations between two people.", f"{word} is here.") for word in ("A", "B", "A")]
    tokens = [model._tokens(model._render(prompt)) for prompt in asked]
    shared = len(_common_beginning(tokens)) // BLOCK * BLOCK
    read, branches = tokens_read(model, monkeypatch), sum(map(len, PROBE.beginnings))
    answers = model.read(asked, PROBE)
    assert read == [shared, 2 * (len(tokens[0]) - shared + branches)]
    np.testing.assert_array_equal(answers[0], answers[2])


def test_what_was_written_is_not_read_again() -> None:
    model = LocalModel(MODEL, WORDS)
    script = Prompt("You complete the script of a play.", "", "Seeker: It hurts.\nSupporter: Go on.\nSeeker:")
    begun = model._tokens(model._render(script))
    model.write([script], 3 * BLOCK)
    kept = max(map(len, model.prefixes._slots))
    assert kept >= len(begun) // BLOCK * BLOCK + BLOCK
    assert all(prefix[: len(begun)] == tuple(begun)[: len(prefix)] for prefix in model.prefixes._slots)


class TestPrefixStore:
    """Against a list of the prefixes in the order of their use."""

    @given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 1), max_size=4)), max_size=12), st.integers(0, 6))
    @settings(max_examples=200, deadline=None)
    def test_finds_what_it_should_and_gives_back_what_was_put_in(
        self, uses: list[tuple[bool, list[int]]], capacity: int
    ) -> None:
        config = LlamaConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
        store = PrefixStore(config, capacity * 2 * 4 * BLOCK * 8, torch.float64, torch.device("cpu"))
        order: list[tuple[int, ...]] = []  # of blocks, the longest unused first
        for adds, blocks in uses:
            tokens = [token for block in blocks for token in [block] * BLOCK]
            chain = [tuple(blocks[:end]) for end in range(1, len(blocks) + 1)]
            found = next((at for at, prefix in enumerate(chain) if prefix not in order), len(chain))
            slots = store.find(tokens)
            assert len(slots) == found
            order = [prefix for prefix in order if prefix not in chain[:found]] + chain[:found][::-1]
            room = store.room(1, found * BLOCK)
            store.put(slots, room[:, :, 0])
            expected = torch.tensor([value_of(prefix) for prefix in chain[:found] for _ in range(BLOCK)])
            assert torch.equal(room, expected.double()[:, None].expand_as(room))
            if adds and len(blocks) <= capacity:
                new = torch.tensor([value_of(prefix) for prefix in chain[found:] for _ in range(BLOCK)])
                store.add(tokens, new.double()[:, None].expand(1, 2, 1, -1, 4))
                order = [prefix for prefix in order if prefix not in chain[found:]] + chain[found:][::-1]
                order = order[max(len(order) - capacity, 0) :]
            assert store.bytes_used == len(order) * 2 * 4 * BLOCK * 8


def value_of(prefix: tuple[int, ...]) -> int:
    """A number that tells blocks apart."""
    return int("".join(map(str, (1, *prefix))), 2)
