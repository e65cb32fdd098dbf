"""One copy of a language model writes replies and carries the policy, and neither changes the other."""

import torch
from tiny_model import tiny_model

from gflowdial.dialogue.local import LocalModel
from gflowdial.dialogue.local.model import Prompt
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import pack_prefixes

PROMPTS = [Prompt("You are kind.", f"Number {number}: what now?", "Supporter:") for number in range(3)]
PACKED = pack_prefixes([-1, 0, 0], [[5, 6, 7], [8, 9], [10]], [True, True, True], [11])


def test_replies_and_readings_are_those_of_two_copies() -> None:
    alone = LocalModel(*tiny_model())
    before = alone.write(PROMPTS, 8)
    own = LanguageModelPolicy.with_lora(tiny_model()[0], [3, 4, 5], rank=2, alpha=4).eval()
    local = LocalModel(*tiny_model())
    policy = LanguageModelPolicy.with_lora(local.model, [3, 4, 5], rank=2, alpha=4).eval()
    local.lend = policy.lent
    with torch.no_grad():
        for (name, weight), (_, twin) in zip(policy.named_parameters(), own.named_parameters(), strict=True):
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
            twin.copy_(weight)
        wanted = own(PACKED).log_policy
        assert torch.equal(policy(PACKED).log_policy, wanted)
        assert local.write(PROMPTS, 8) == before
        assert torch.equal(policy(PACKED).log_policy, wanted)
        # The adapter changes what is read: were it on, the replies would be another model's.
        assert not torch.allclose(policy.log_reference(PACKED), wanted)
    assert {p.data_ptr() for p in local.model.parameters()} <= {p.data_ptr() for p in policy.parameters()}
