"""Laws of a balance loss: zero at balance and only there, true gradients, and what it must not depend on."""

from collections.abc import Callable, Mapping, Sequence

from hypothesis import strategies as st

from gflowdial.forest import Forest
from gflowdial.shapes import Tensor
from gflowdial.testing.broken import BrokenLawError, kept_laws
from gflowdial.testing.large_forests import CHAINS, TREES, Family
from gflowdial.testing.loss_adapters import PaddedLoss, name_of
from gflowdial.testing.loss_cases import Policies
from gflowdial.testing.loss_checks import ARGUMENTS, Argument, LossLaws, OverTrees
from gflowdial.testing.loss_search import Finding, smallest_against
from gflowdial.testing.strategies import chains
from gflowdial.testing.strategies import forests as any_forests


def check_loss(
    loss: Callable[..., Tensor],
    *,
    forests: st.SearchStrategy[Forest] | None = None,
    group: str | None = None,
    over_trees: OverTrees = "mean",
    differentiable: Sequence[Argument] = ARGUMENTS,
    policies: Policies = "any",
    leave_out: Sequence[str] = (),
    max_examples: int = 50,
) -> None:
    """Search for a flow on which a balance loss breaks a law, and report the smallest.

    The loss is called as ``loss(log_flow, log_pf, log_pb, log_reward, forest)`` in float64, as the losses of
    `gflowdial.losses` are; `from_log_z` and `from_padded` adapt others, and a lambda sets options. Its penalty may be
    any smooth function with its only minimum at 0. The laws, by name:

    - "one finite number, the same each time": for the same input, which it leaves unchanged;
    - "float32 or better": it notices changes of its arguments of the size of float32's rounding; what rounding may do
      to the other laws is taken from the precision measured here;
    - "zero at balance" and "gradient zero at balance"; entries of ``log_flow`` at leaves below a root do not matter,
      for log R stands there;
    - "positive off balance", where one log P_F, one log P_B or one log R is off, or two log P_F out of one state in
      opposite directions;
    - "the gradient is that of the value", by finite differences;
    - "numbering does not matter", of nodes and trees (on chains: the order of the trees);
    - "a common shift of log F, log Z and log R does not matter", of each tree;
    - "the mean over trees" of what it says of each alone ("the sum over trees", with ``over_trees``).

    They are tried on small chains, trees and forests that Hypothesis draws, and on large ones: trajectories of 300
    actions, paths of 120 in a tree, 80 actions in a state, 40 trees, numbers of 1000 nats.

    With ``group``, the loss needs no log Z: it is told which trees share one by the keyword ``group``, int64
    ``[trees]``, and the laws hold for groups in the place of trees. Something is off there if some but not all paths
    of its group see it. Groups may count evenly or by their trees.

    Args:
        loss: what to check.
        forests: what the flows lie on instead, such as `chains()` for losses of trajectories; no large ones are added.
        group: the name of the loss's option for group ids.
        over_trees: how trees combine; "other" leaves the last law out.
        differentiable: the arguments whose gradient is compared with finite differences.
        policies: what log P_F may be; see `Policies`. A loss that raises on "any", where log P_F can be above 0, is
            checked on "partial", and one that raises there too on "normalised".
        leave_out: names of laws that are not checked.
        max_examples: how many small flows are tried.

    Raises:
        AssertionError: with the law, the smallest flow found against it, and the numbers.
        ValueError: ``leave_out`` names no law.
    """
    laws = LossLaws(loss, group, over_trees, differentiable)
    checked = kept_laws(laws.all(), leave_out)
    padded = isinstance(loss, PaddedLoss)
    families: Mapping[str, Family] = {} if forests is not None else CHAINS if padded else {**CHAINS, **TREES}
    drawn = forests if forests is not None else chains() if padded else any_forests(max_nodes=12)

    def search(narrower: Policies, shrink: bool = True) -> Finding | None:
        return smallest_against(
            checked,
            drawn,
            families,
            grouped=group is not None,
            policies=narrower,
            max_examples=max_examples,
            shrink=shrink,
        )

    finding = search(policies)
    order: tuple[Policies, ...] = ("any", "partial", "normalised")
    for narrower in order[order.index(policies) + 1 :]:
        if finding is None:
            return
        if finding.raised is None and (finding.large or "at balance" not in finding.law):
            break
        other = search(narrower, shrink=finding.raised is not None)
        if other is None:
            if finding.raised is not None:
                return
            hint = f"\nOn policies={narrower!r} it keeps the laws: say so if it is meant for those alone."
            raise _report(loss, finding, group, hint)
        if finding.raised is not None and other.raised is None:
            finding = other
    if finding is not None:
        raise _report(loss, finding, group, "") from finding.raised


def _report(loss: Callable[..., Tensor], finding: Finding, group: str | None, hint: str) -> BrokenLawError:
    groups = "" if group is None else f"\n{group} = {finding.case.groups.tolist()}"
    return BrokenLawError(
        f"{name_of(loss)} breaks the law '{finding.law}': {finding.violation.detail}\n"
        f"{finding.violation.flow!r}{groups}{hint}"
    )
