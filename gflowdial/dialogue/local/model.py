"""A causal language model as two batched operations: write the next words, and read an answer off the logits."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from gflowdial.dialogue.local.prefix_store import BLOCK, BatchCache, PrefixStore
from gflowdial.estimators.name_trie import NameTrie
from gflowdial.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Prompt:
    """What the model is told: the system message, the user's message, and how its own answer begins.

    Attributes:
        draw: tells prompts of equal words apart that are to be answered by different samples.
    """

    system: str
    user: str
    answer: str = ""
    draw: int = 0


@dataclass(frozen=True)
class Probe:
    """Beginnings of an answer, as tokens, and what may follow them; made by `LocalModel.probe`.

    Attributes:
        beginnings: each with every continuation that has to be read behind it.
        answers: the tokens that may follow, and where they part.
    """

    beginnings: tuple[tuple[int, ...], ...]
    answers: NameTrie


@dataclass(frozen=True)
class _Batch:
    """Prompts side by side: ``past`` columns of what was read before, then what is to be read, padded on the left.

    Attributes:
        prompts: one a row.
        tokens: their tokens.
        ids: ``[batch, length]`` the tokens that are to be read, at the end of their rows.
        real: ``[batch, length]`` which columns hold keys and values of a prompt's token, or will.
        cache: keys and values; the first ``past`` columns are filled.
        past: how many columns hold what was read before.
    """

    prompts: list[Prompt]
    tokens: list[list[int]]
    ids: Int[Tensor, "batch length"]
    real: Bool[Tensor, "batch length"]
    cache: BatchCache
    past: int


class LocalModel:
    """A ``transformers`` causal language model and its tokenizer.

    What it says of a prompt depends neither on the batch nor on what was read before, up to rounding: prompts are
    padded on the left, masked, and positions count from a prompt's own first token.

    Attributes:
        model: in evaluation mode.
        lend: gives the model for a call; `LanguageModelPolicy.lent` where a policy is on the same weights.
        tokenizer: with a chat template and an end token.
        batch_size: prompts in one pass.
        prefixes: what is kept of the prompts that were read, at most ``store_bytes``; see `PrefixStore`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 32,
        store_bytes: int = 2**30,
    ) -> None:
        if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer needs a chat template and an end token: take an instruction-tuned model's")
        # Generation comes from a mix-in that type checkers do not see.
        self.model: Any = model.train(False)
        self.lend: Callable[[], AbstractContextManager[Any]] = lambda: nullcontext(self.model)
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.prefixes = PrefixStore(model.config, store_bytes, model.dtype, model.device)
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self._end_tokens = [tokenizer.eos_token_id, *(i for i, text in enumerate(texts) if "\n" in text)]

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int = 32,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        whole_sentences: bool = False,
    ) -> list[str]:
        """The model's continuation of each prompt, cut at its first line break, stripped.

        Args:
            prompts: equal ones get the same text, or one sample each where ``temperature`` is above 0.
            max_new_tokens: after which a text is cut.
            temperature: 0 takes the most probable token, otherwise tokens are drawn from softmax(logits/temperature).
            seed: of the draws, which depend on it and on the prompt alone.
            whole_sentences: cut a text that did not end by itself behind its last sentence, if it has one.

        Raises:
            ValueError: ``temperature`` is negative.
            RuntimeError: the model wrote nothing but blanks.
        """
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}: give 0 (the most probable words) or more")
        if temperature:
            prompts = [replace(prompt, draw=prompts[:at].count(prompt)) for at, prompt in enumerate(prompts)]
        texts: dict[Prompt, str] = {}
        for batch in self._batches(prompts, max_new_tokens):
            with self.lend() as model:
                ids = model.generate(
                    input_ids=batch.ids,
                    attention_mask=batch.real.long(),
                    past_key_values=batch.cache,
                    do_sample=False,
                    max_new_tokens=max_new_tokens,
                    min_new_tokens=2,
                    eos_token_id=self._end_tokens,
                    pad_token_id=self.tokenizer.eos_token_id,
                    logits_processor=[_Draw(batch.prompts, temperature, seed)] if temperature else None,
                )
            new_ids = ids[:, batch.ids.shape[1] :]
            self._keep(batch, new_ids.tolist())
            new = self.tokenizer.batch_decode(new_ids, skip_special_tokens=True)
            for prompt, text, ids in zip(batch.prompts, new, new_ids.tolist(), strict=True):
                texts[prompt] = text.lstrip().split("\n")[0].strip()
                if whole_sentences and not set(ids) & set(self._end_tokens):
                    texts[prompt] = _whole_sentences(texts[prompt])
                if not texts[prompt]:
                    raise RuntimeError(f"the model wrote nothing after {prompt.user[-80:]!r}")
        return [texts[prompt] for prompt in prompts]

    def probe(self, beginnings: Sequence[str], answers: Sequence[str]) -> Probe:
        """Beginnings of an answer and what may follow them; of answers as many tokens are read as tell them apart.

        Raises:
            ValueError: the tokenizer joins an answer to its beginning, or one answer begins another.
        """
        heads = [tuple(self._tokens(beginning)) for beginning in beginnings]
        tokens = [self._tokens(answer) for answer in answers]
        trie = NameTrie.of(tokens)
        longest = 1 + max(map(len, trie.shared))
        for beginning, head in zip(beginnings, heads, strict=True):
            for answer, own in zip(answers, tokens, strict=True):
                if self._tokens(beginning + answer)[: len(head) + longest] != [*head, *own[:longest]]:
                    raise ValueError(f"this tokenizer joins {answer!r} to {beginning!r}: they cannot be read apart")
        return Probe(tuple(head + shared for head in heads for shared in trie.shared), trie)

    @torch.inference_mode()
    def read(self, prompts: Sequence[Prompt], probe: Probe) -> NDArray[np.float64]:
        """Log-probabilities of the answers after each beginning, normalised over the answers.

        All beginnings are read in one pass: they follow the prompt as branches that do not see each other.

        Returns:
            ``[prompts, beginnings, answers]``.
        """
        read: dict[Prompt, NDArray[np.float64]] = {}
        for batch in self._batches(prompts, sum(map(len, probe.beginnings))):
            logits = self._pass(batch, probe.beginnings)
            branchings = len(probe.answers.shared)
            answers = probe.answers.log_probs(
                [logits[:, at::branchings, list(tokens)].double() for at, tokens in enumerate(probe.answers.options)]
            )
            read.update(zip(batch.prompts, answers.cpu().numpy(), strict=True))
        return np.stack([read[prompt] for prompt in prompts])

    def _pass(self, batch: _Batch, beginnings: Sequence[Sequence[int]]) -> Float[Tensor, "batch beginnings vocabulary"]:
        """Read a batch, and keep what was read; logits at the end of each beginning, which is a branch."""
        lengths = [len(beginning) for beginning in beginnings]
        branches = batch.ids.new_tensor([token for beginning in beginnings for token in beginning])
        last = batch.ids.new_tensor(lengths).cumsum(0) - 1
        sees, position = _branching(batch.real, lengths)
        ids = torch.cat([batch.ids, branches.expand(len(batch.ids), -1)], dim=1)
        with self.lend() as model:
            logits: Tensor = model(
                input_ids=ids[:, batch.past :],
                attention_mask=_additive(sees[:, batch.past :], model.dtype),
                position_ids=position[:, batch.past :],
                past_key_values=batch.cache,
                logits_to_keep=ids.shape[1] - batch.past - len(branches) + last,
            ).logits
        self._keep(batch)
        return logits

    def _batches(self, prompts: Sequence[Prompt], room: int) -> Iterator[_Batch]:
        """The distinct prompts, those with as much left to read together, and ``room`` for tokens behind them."""
        tokens = {prompt: self._tokens(self._render(prompt)) for prompt in prompts}
        if len(tokens) > 1:
            self._read_beginning(_common_beginning(tokens.values()))
        left = {prompt: len(ids) - BLOCK * len(self.prefixes.find(ids[:-1])) for prompt, ids in tokens.items()}
        order = sorted(tokens, key=lambda prompt: (left[prompt], len(tokens[prompt])))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self._batch(chosen, [tokens[prompt] for prompt in chosen], room)

    def _read_beginning(self, shared: list[int]) -> None:
        """Read what all prompts of a call begin with once, not in every row, if it was not read before."""
        whole = shared[: len(shared) // BLOCK * BLOCK]
        if self.prefixes.room_for(whole) and len(self.prefixes.find(whole)) * BLOCK < len(whole):
            batch = self._batch([], [whole], 0)
            self._pass(batch, ())

    def _batch(self, prompts: list[Prompt], tokens: list[list[int]], room: int) -> _Batch:
        # The last token of a prompt is always read: what follows depends on its logits.
        found = [self.prefixes.find(ids[:-1]) for ids in tokens]
        past = BLOCK * max(map(len, found))
        length = past + max(len(ids) - BLOCK * len(slots) for ids, slots in zip(tokens, found, strict=True))
        cache = BatchCache(self.prefixes.room(len(tokens), length + room), past)
        ids = torch.full((len(tokens), length), self.tokenizer.eos_token_id)
        real = torch.zeros((len(tokens), length), dtype=torch.bool)
        for row, (own, slots) in enumerate(zip(tokens, found, strict=True)):
            stored = BLOCK * len(slots)
            self.prefixes.put(slots, cache.room[:, :, row, :, past - stored : past])
            ids[row, length - len(own) + stored :] = torch.tensor(own[stored:])
            real[row, past - stored : past] = True
            real[row, length - len(own) + stored :] = True
        device = self.model.device
        return _Batch(prompts, tokens, ids.to(device), real.to(device), cache, past)

    def _keep(self, batch: _Batch, written: Sequence[list[int]] | None = None) -> None:
        """Keep what was read of the prompts, and what was written behind them but the last token, never read."""
        length = batch.ids.shape[1]
        new = batch.real[:, batch.past :].sum(dim=1).tolist()
        for row, own in enumerate(batch.tokens):
            behind = list(takewhile(lambda token: token not in self._end_tokens, written[row][:-1] if written else []))
            room = batch.cache.room[:, :, row, :, length - new[row] : length + len(behind)]
            self.prefixes.add(own + behind, room)

    def _render(self, prompt: Prompt) -> str:
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        chat = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return f"{chat}{prompt.answer}"

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class _Draw(LogitsProcessor):
    """Turns the most probable token into a sample: argmax(logits/temperature + Gumbel noise) is one of the softmax.

    Each prompt has a stream of its own, so that what is drawn does not depend on the rest of the batch.
    """

    def __init__(self, prompts: Sequence[Prompt], temperature: float, seed: int) -> None:
        digests = [hashlib.sha256(repr((seed, prompt)).encode()).digest() for prompt in prompts]
        self.streams = [torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")) for digest in digests]
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 (transformers')
        rows = [torch.empty(scores.shape[1]).exponential_(generator=stream) for stream in self.streams]
        return scores / self.temperature - torch.stack(rows).log().to(scores.device)


def _whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; all of it if there is none."""
    found = re.match(r""".*([.!?…]["'”’)]*(?=\s|$)|[。！？])""", text)
    return found[0] if found else text


def _common_beginning(rows: Iterable[list[int]]) -> list[int]:
    """What all rows begin with: in the order of a dictionary the first and the last have no more in common."""
    return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(rows), max(rows), strict=False))]


def _branching(
    mask: Bool[Tensor, "batch length"], lengths: Sequence[int]
) -> tuple[Bool[Tensor, "batch total total"], Int[Tensor, "batch total"]]:
    """Who sees whom, and the positions, when branches of these lengths follow each prompt."""
    batch, length = mask.shape
    branches = [number for number, size in enumerate(lengths) for _ in range(size)]
    branch = torch.tensor([-1] * length + branches, device=mask.device)
    total = len(branch)
    within = torch.tensor([at for size in lengths for at in range(size)], dtype=torch.int64, device=mask.device)
    own = (branch[:, None] == branch) | (branch == -1)
    causal = torch.ones(total, total, dtype=torch.bool, device=mask.device).tril()
    real = torch.cat([mask, mask.new_ones(batch, total - length)], dim=1)
    # A padding token sees itself, so that no row of the attention is empty.
    sees = (own & causal & real[:, None]) | torch.eye(total, dtype=torch.bool, device=mask.device)
    prompt_position = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    position = torch.cat([prompt_position, mask.sum(dim=1, keepdim=True) + within], dim=1)
    return sees, position


def _additive(sees: Bool[Tensor, "batch queries keys"], dtype: torch.dtype) -> Float[Tensor, "batch 1 queries keys"]:
    """The mask as attention takes it: 0 where a token is seen, the least number where it is not."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[:, None]
