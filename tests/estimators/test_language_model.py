"""The language-model policy: where it starts, what its reference is, and that a saved one is the same one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.name_trie import NameTrie
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes

ACTIONS = [7, 3, 11, 40, 21]
PARENT, TOKENS = [-1, 0, 0, 1], [[1, 2, 3], [4, 5], [6], [7, 8, 9]]
BRANCH = [5, 9]

Build = Callable[[int], LlamaForCausalLM]


@pytest.fixture(scope="module")
def packed() -> PackedPrefixes:
    return pack_prefixes(PARENT, TOKENS, [True] * 4, BRANCH)


def perturb(policy: LanguageModelPolicy) -> None:
    torch.manual_seed(1)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)


@torch.no_grad()
def test_the_untrained_policy_is_the_language_models_own_choice_among_the_names(
    tiny_llama: Build, packed: PackedPrefixes
) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS)
    assert policy.num_actions == len(ACTIONS)
    output = policy(packed)
    for row, ids in enumerate([[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 4, 5, 7, 8, 9]]):
        logits = tiny_llama(0)(input_ids=torch.tensor([ids + BRANCH])).logits[0, -1]
        torch.testing.assert_close(output.log_policy[row], logits[ACTIONS].log_softmax(-1), atol=1e-5, rtol=1e-5)
    assert not output.log_value.any()
    assert not output.log_state_value.any()
    torch.testing.assert_close(policy.log_reference(packed), output.log_policy)


def test_the_reference_is_the_untrained_policy_whatever_is_trained(tiny_llama: Build, packed: PackedPrefixes) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS)
    before = policy(packed).log_policy.detach()
    perturb(policy)
    assert (policy(packed).log_policy - before).abs().max() > 0.1
    torch.testing.assert_close(policy.log_reference(packed), before)
    assert not policy.log_reference(packed).requires_grad


def test_only_the_adapter_and_the_heads_are_trained(tiny_llama: Build) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith(("policy_head.", "value_head.")) for name in trained)
    assert {"policy_head.weight", "policy_head.bias", "value_head.weight", "value_head.bias"} <= trained


@pytest.mark.parametrize("name_the_base", [False, True])
@torch.no_grad()
def test_a_saved_policy_is_the_same_policy(
    tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path, name_the_base: bool
) -> None:
    tiny_llama(0).save_pretrained(tmp_path / "base")
    policy = LanguageModelPolicy.with_lora(LlamaForCausalLM.from_pretrained(tmp_path / "base"), ACTIONS).eval()
    perturb(policy)
    policy.save_pretrained(tmp_path / "policy")
    base = None if name_the_base else tiny_llama(0)
    loaded = LanguageModelPolicy.from_pretrained(tmp_path / "policy", base).eval()
    assert loaded.names == policy.names
    for name, tensor in vars(policy(packed)).items():
        assert torch.equal(tensor, getattr(loaded(packed), name)), name
    assert torch.equal(policy.log_reference(packed), loaded.log_reference(packed))
    kinds = {file.suffix for file in (tmp_path / "policy").iterdir()}
    assert kinds <= {".safetensors", ".json", ".md"}
    assert not any("embed" in key for key in load_file(tmp_path / "policy" / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("names", "action"), [([7, 3, 7], 2), ([[7], [3], [7, 5]], 0), ([[7, 5], [7]], 1), ([[7], []], 1)]
)
def test_names_that_cannot_be_told_apart_are_refused(
    tiny_llama: Build, names: Sequence[int] | Sequence[Sequence[int]], action: int
) -> None:
    with pytest.raises(ValueError, match=rf"name of action {action}.* begins another name: end every name with a mark"):
        LanguageModelPolicy.with_lora(tiny_llama(0), names)


def test_a_folder_without_a_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no policy .*train one first"):
        LanguageModelPolicy.from_pretrained(tmp_path / "nowhere")


def test_incomplete_heads_are_refused(tiny_llama: Build, tmp_path: Path) -> None:
    LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS).save_pretrained(tmp_path)
    heads = load_file(tmp_path / "heads.safetensors")
    del heads["value_head.bias"]
    save_file(heads, tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match=r"heads.safetensors.*value_head.bias"):
        LanguageModelPolicy.from_pretrained(tmp_path, tiny_llama(0))


SHARED = [[7, 3], [7, 11, 40], [21], [7, 11, 3, 9], [7, 11, 3, 5, 7], [2, 2], [30, 1, 4], [30, 1, 6]]
"""Names that share up to three first tokens; [2, 2] and [21] share none, [30, 1, .] have a token without a choice."""


def prefixes() -> list[list[int]]:
    return [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 4, 5, 7, 8, 9]]


@torch.no_grad()
def by_brute_force(model: LlamaForCausalLM, ids: list[int], names: Sequence[Sequence[int]]) -> Tensor:
    """The product over all tokens of a name of the softmax restricted to what can follow, a plain pass for each."""
    found = []
    for name in names:
        log_prob = torch.zeros(())
        for at, token in enumerate(name):
            following = sorted({other[at] for other in names if list(other[:at]) == list(name[:at])})
            logits = model(input_ids=torch.tensor([ids + list(name[:at])])).logits[0, -1]
            log_prob = log_prob + logits[following].log_softmax(-1)[following.index(token)]
        found.append(log_prob)
    return torch.stack(found)


def test_names_that_share_tokens_have_their_probabilities_in_the_language_model(tiny_llama: Build) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), SHARED)
    assert policy.continuations == ((7,), (7, 11), (7, 11, 3), (30, 1))
    packed = pack_prefixes(PARENT, TOKENS, [True] * 4, BRANCH, policy.continuations)
    wanted = torch.stack([by_brute_force(tiny_llama(0), ids + BRANCH, SHARED) for ids in prefixes()])
    got = policy(packed).log_policy.detach()
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.exp().sum(dim=1), torch.ones(4))
    perturb(policy)
    assert (policy(packed).log_policy - wanted).abs().max() > 0.1
    torch.testing.assert_close(policy.log_reference(packed), wanted, atol=1e-5, rtol=1e-5)
    order = [3, 0, 3]
    assert torch.equal(policy(packed.select(order)).log_policy, policy(packed).log_policy[order])


def test_further_branchings_leave_values_and_descendants_as_they_are(tiny_llama: Build, packed: PackedPrefixes) -> None:
    """A node's state is read as without continuations; nothing below it sees them."""
    plain, shared = (LanguageModelPolicy.with_lora(tiny_llama(0), names) for names in (ACTIONS, SHARED))
    value = torch.randn(len(SHARED) + 1, 16, generator=torch.Generator().manual_seed(0))
    for policy in (plain, shared):
        policy.value_head.weight.data = value[-len(policy.names) - 1 :]
    continued = pack_prefixes(PARENT, TOKENS, [True] * 4, BRANCH, shared.continuations)
    one, other = plain(packed), shared(continued)
    torch.testing.assert_close(one.log_state_value, other.log_state_value, atol=1e-5, rtol=1e-5)


def test_prefixes_without_the_policys_continuations_are_refused(tiny_llama: Build, packed: PackedPrefixes) -> None:
    with pytest.raises(ValueError, match="with 0 continuations, and the policy's names need 4"):
        LanguageModelPolicy.with_lora(tiny_llama(0), SHARED)(packed)


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=6, unique_by=tuple),
    st.integers(0, 99),
)
def test_a_trie_gives_every_name_the_product_of_its_choices(drawn: list[list[int]], seed: int) -> None:
    names = [[*name, 3] for name in drawn]
    trie = NameTrie.of(names)
    stream = torch.Generator().manual_seed(seed)
    logit = {p: torch.randn(4, generator=stream) for n in range(5) for p in product(range(4), repeat=n)}
    log_probs = trie.log_probs(
        [logit[at][list(options)] for at, options in zip(trie.shared, trie.options, strict=True)]
    )
    for name, log_prob in zip(names, log_probs, strict=True):
        wanted = 0.0
        for at, token in enumerate(name):
            following = sorted({other[at] for other in names if other[:at] == name[:at]})
            wanted += float(logit[tuple(name[:at])][following].log_softmax(-1)[following.index(token)])
        assert float(log_prob) == pytest.approx(wanted, abs=1e-5)
    torch.testing.assert_close(log_probs.exp().sum(), torch.ones(()))


@torch.no_grad()
def test_a_saved_policy_knows_names_of_several_tokens(tiny_llama: Build, tmp_path: Path) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), SHARED).eval()
    perturb(policy)
    policy.save_pretrained(tmp_path, with_base=True)
    loaded = LanguageModelPolicy.from_pretrained(tmp_path).eval()
    packed = pack_prefixes(PARENT, TOKENS, [True] * 4, BRANCH, loaded.continuations)
    assert torch.equal(policy(packed).log_policy, loaded(packed).log_policy)


@pytest.mark.parametrize("reference", [False, True])
@torch.no_grad()
def test_a_folder_that_says_whether_a_copy_is_the_reference_still_loads(
    tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path, reference: bool
) -> None:
    policy = LanguageModelPolicy(tiny_llama(0), ACTIONS, reference="initial" if reference else None).eval()
    policy.save_pretrained(tmp_path, with_base=reference)
    settings = json.loads((tmp_path / "policy.json").read_text())
    del settings["adapters"]
    (tmp_path / "policy.json").write_text(json.dumps({**settings, "reference": reference}))
    loaded = LanguageModelPolicy.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(packed).log_policy, policy(packed).log_policy)
    assert (loaded.reference_model is not None) == reference


@torch.no_grad()
def test_a_folder_of_one_token_per_action_still_loads(
    tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path
) -> None:
    tiny_llama(0).save_pretrained(tmp_path / "base")
    policy = LanguageModelPolicy.with_lora(LlamaForCausalLM.from_pretrained(tmp_path / "base"), ACTIONS).eval()
    policy.save_pretrained(tmp_path / "policy")
    (tmp_path / "policy" / "policy.json").write_text(json.dumps({"action_tokens": ACTIONS}))
    loaded = LanguageModelPolicy.from_pretrained(tmp_path / "policy").eval()
    assert torch.equal(policy(packed).log_policy, loaded(packed).log_policy)


READ_ELSEWHERE = """
import sys, torch
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import pack_prefixes
policy = LanguageModelPolicy.from_pretrained(sys.argv[1]).eval()
packed = pack_prefixes([-1, 0, 0, 1], [[1, 2, 3], [4, 5], [6], [7, 8, 9]], [True] * 4, [5, 9])
torch.set_num_threads(1)
with torch.no_grad():
    torch.save([policy(packed).log_policy, policy.log_reference(packed)], sys.argv[2])
"""


@pytest.mark.parametrize("kind", ["in memory", "in a folder"])
@torch.no_grad()
def test_a_folder_with_its_base_loads_anywhere(
    tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path, kind: str
) -> None:
    base = tiny_llama(0)
    if kind == "in a folder":
        base.save_pretrained(tmp_path / "original")
        base = LlamaForCausalLM.from_pretrained(tmp_path / "original")
    policy = LanguageModelPolicy.with_lora(base, ACTIONS).eval()
    perturb(policy)
    policy.save_pretrained(tmp_path / "policy", with_base=True)
    shutil.move(tmp_path / "policy", tmp_path / "moved")
    shutil.rmtree(tmp_path / "original", ignore_errors=True)
    (tmp_path / "elsewhere").mkdir()
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", READ_ELSEWHERE, str(tmp_path / "moved"), str(tmp_path / "read.pt")]
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run(command, check=True, cwd=tmp_path / "elsewhere", env=environment, capture_output=True)
    log_policy, log_reference = torch.load(tmp_path / "read.pt")
    assert torch.equal(log_policy, policy(packed).log_policy)
    assert torch.equal(log_reference, policy.log_reference(packed))
    # Saved where it was loaded from, it goes on using the base that is there.
    again = LanguageModelPolicy.from_pretrained(tmp_path / "moved")
    again.save_pretrained(tmp_path / "moved")
    assert json.loads((tmp_path / "moved" / "policy.json").read_text())["base"] == "base"


def test_a_base_folder_is_named_by_its_absolute_path(
    tiny_llama: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llama(0).save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    policy = LanguageModelPolicy.with_lora(LlamaForCausalLM.from_pretrained("base"), ACTIONS)
    policy.save_pretrained("policy")
    monkeypatch.chdir("/")
    LanguageModelPolicy.from_pretrained(tmp_path / "policy")
    for file, key in (("policy.json", "base"), ("adapter_config.json", "base_model_name_or_path")):
        assert json.loads((tmp_path / "policy" / file).read_text())[key] == str((tmp_path / "base").resolve())


def test_the_dtype_is_the_base_models_and_heads_stay_float32(
    tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path
) -> None:
    LanguageModelPolicy.with_lora(tiny_llama(0).bfloat16(), ACTIONS).save_pretrained(tmp_path, with_base=True)
    for dtype, wanted in ((torch.float32, torch.float32), ("auto", torch.bfloat16), (torch.bfloat16, torch.bfloat16)):
        loaded = LanguageModelPolicy.from_pretrained(tmp_path, dtype=dtype, device="cpu")
        assert loaded.language_model.dtype == wanted
        heads = {loaded.policy_head.weight.dtype, loaded.value_head.weight.dtype, loaded.reference_head.dtype}
        assert heads == {torch.float32}
        assert loaded(packed).log_policy.dtype == torch.float32


def test_a_policy_whose_base_has_no_name_asks_for_it(tiny_llama: Build, tmp_path: Path) -> None:
    LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names no base model: hand it in as `language_model`"):
        LanguageModelPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("reference", [None, "base", "initial"])
def test_a_model_without_adapter_is_trained_in_full(
    tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path, reference: str | None
) -> None:
    policy = LanguageModelPolicy(tiny_llama(0), ACTIONS, reference=reference).eval()
    before = policy(packed).log_policy.detach()
    torch.testing.assert_close(before, LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS)(packed).log_policy)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in policy.named_parameters() if not name.startswith("reference_model.")}
    perturb(policy)
    assert (policy(packed).log_policy - before).abs().max() > 0.1
    policy.save_pretrained(tmp_path / "policy", with_base=reference is not None)
    shutil.move(tmp_path / "policy", tmp_path / "moved")
    loaded = LanguageModelPolicy.from_pretrained(tmp_path / "moved").eval()
    assert torch.equal(loaded(packed).log_policy, policy(packed).log_policy)
    if reference:
        torch.testing.assert_close(policy.log_reference(packed), before)
        assert torch.equal(loaded.log_reference(packed), policy.log_reference(packed))
    else:
        with pytest.raises(ValueError, match="keeps no reference"):
            policy.log_reference(packed)


@pytest.mark.parametrize("known", ["activation_checkpointing_enable", "gradient_checkpointing_enable"])
@pytest.mark.parametrize("called", ["activation_checkpointing_enable", "gradient_checkpointing_enable"])
def test_activations_are_computed_anew_whatever_a_version_calls_it(
    tiny_llama: Build, monkeypatch: pytest.MonkeyPatch, known: str, called: str
) -> None:
    policy, asked = LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS), []
    model = SimpleNamespace(**{known: lambda *given, **settings: asked.append((given, settings))})
    monkeypatch.setattr(policy, "_causal_lm", lambda: model)
    getattr(policy, called)(every_n_layers=2)
    getattr(policy, called)(**{called.replace("enable", "kwargs"): {"use_reentrant": True}})
    assert asked == [(({"use_reentrant": False},), {"every_n_layers": 2}), (({"use_reentrant": True},), {})]


def test_a_model_that_brings_its_own_code_is_refused(tiny_llama: Build, tmp_path: Path) -> None:
    LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS).save_pretrained(tmp_path, with_base=True)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "own.py").write_text("raise SystemExit('code of the model was run')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        LanguageModelPolicy.from_pretrained(tmp_path)
