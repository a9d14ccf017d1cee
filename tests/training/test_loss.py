"""training/loss.py against a float64 reference written without any of its algebra."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import training.head_gradient
import training.loss
from training.loss import Losses, linear_cross_entropy, linear_losses


def reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    eps: float,
    softcap: float | None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss sum and both gradients in float64, by torch's own cross_entropy and autograd."""
    x = hidden.detach().double().requires_grad_()
    w = weight.detach().double().requires_grad_()
    z = x @ w.T
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    loss = torch.nn.functional.cross_entropy(z, labels, label_smoothing=eps, reduction="sum")
    if (labels == -100).all():  # torch gives the sum over nothing as 0, with a gradient of 0
        return torch.zeros((), dtype=torch.float64), torch.zeros_like(x), torch.zeros_like(w)
    gx, gw = torch.autograd.grad(loss, (x, w))
    return loss.detach(), gx, gw


def ours(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    eps: float,
    softcap: float | None,
    temperature: float = 1.0,
) -> tuple[Losses, Tensor, Tensor]:
    x, w = hidden.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    losses = linear_losses(x, w, labels, label_smoothing=eps, softcap=softcap, temperature=temperature)
    assert not losses.nll_sum.requires_grad
    losses.loss_sum.backward()
    assert x.grad is not None
    assert w.grad is not None
    return losses._replace(loss_sum=losses.loss_sum.detach()), x.grad, w.grad


def case(rows: int, width: int, vocabulary: int, seed: int, masked: float) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=random)
    weight = torch.randn(vocabulary, width, generator=random)
    labels = torch.randint(vocabulary, (rows,), generator=random)
    labels[torch.rand(rows, generator=random) < masked] = -100
    return hidden, weight, labels


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 40),
    width=st.integers(1, 17),
    vocabulary=st.integers(2, 60),
    seed=st.integers(0, 10_000),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
    eps=st.floats(0, 0.5),
    softcap=st.sampled_from([None, 1.0, 30.0]),
    temperature=st.sampled_from([1.0, 0.05, 0.75, 3.0]),
    chunk=st.sampled_from([1, 7, 10_000]),
    block=st.sampled_from([1, 3, 10_000]),
    columns=st.sampled_from([1, 16, 10_000]),
    may_wait=st.booleans(),
)
def test_equals_float64_reference(
    rows: int,
    width: int,
    vocabulary: int,
    seed: int,
    masked: float,
    eps: float,
    softcap: float | None,
    temperature: float,
    chunk: int,
    block: int,
    columns: int,
    may_wait: bool,
) -> None:
    """On CPU, where rows without a target are left out, and as on CUDA, where they stay."""
    hidden, weight, labels = case(rows, width, vocabulary, seed, masked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.loss, "BYTES_PER_CHUNK", chunk * vocabulary * 8)
        patch.setattr(training.loss, "LOGITS_PER_BLOCK", block * vocabulary)
        patch.setattr(training.head_gradient, "VOCABULARY_PER_BLOCK", columns)
        patch.setattr(training.loss, "_sync_is_free", lambda device: may_wait)
        losses, gx, gw = ours(hidden.double(), weight.double(), labels, eps, softcap, temperature)
    want, want_x, want_w = reference(hidden, weight, labels, eps, softcap, temperature)
    nll, *_ = reference(hidden, weight, labels, 0.0, softcap, temperature)
    assert int(losses.num_tokens) == int((labels != -100).sum())
    torch.testing.assert_close(losses.loss_sum, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses.nll_sum, nll, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gx, want_x, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gw, want_w, rtol=1e-9, atol=1e-10)
    if masked == 1:
        for actual in (losses.loss_sum, losses.nll_sum, gx, gw):
            assert not actual.any()


def model_like(kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Before training; after it, sure of the target; or sure of another token. Half of them are no target."""
    random = torch.Generator().manual_seed(1)
    rows, width, vocabulary = 1024, 64, 1000
    weight = torch.randn(vocabulary, width, generator=random) / 8
    labels = torch.randint(vocabulary // 2, (rows,), generator=random)
    hidden = torch.randn(rows, width, generator=random)
    if kind != "untrained":
        said = labels if kind == "right" else torch.randint(vocabulary, (rows,), generator=random)
        hidden = hidden * 0.3 + weight[said] * 8
    labels[::5] = -100
    return hidden.to(dtype), weight.to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("rows_at_once", [10_000, 32])
@pytest.mark.parametrize("kind", ["untrained", "right", "wrong"])
def test_error_is_at_most_the_naive_one(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    eps: float,
    softcap: float | None,
    rows_at_once: int,
    kind: str,
) -> None:
    """In many chunks, too: a head's gradient that were added up in bf16 would fail here."""
    hidden, weight, labels = model_like(kind, dtype)
    monkeypatch.setattr(training.loss, "BYTES_PER_CHUNK", rows_at_once * len(weight) * weight.itemsize)
    factor = 1 / 817  # as if by the number of tokens; in bf16 it would be off by 0.3%
    want, want_x, want_w = reference(hidden, weight, labels, eps, softcap)
    x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    losses = linear_losses(x, w, labels, label_smoothing=eps, softcap=softcap)
    gx, gw = torch.autograd.grad(losses.loss_sum * factor, (x, w))
    assert (gx.dtype, gw.dtype) == (dtype, dtype)
    assert losses.loss_sum.dtype == losses.nll_sum.dtype == torch.float32

    z = (x @ w.T).float()
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    naive = torch.nn.functional.cross_entropy(z, labels, label_smoothing=eps, reduction="sum")
    naive_x, naive_w = torch.autograd.grad(naive * factor, (x, w))

    def error(actual: Tensor, true: Tensor) -> float:
        return float((actual.detach().double() - true).norm() / true.norm())

    # 16 bits: products are rounded before they are added up, or multiplied by the factor. The target's share
    # is not, and is most of the gradient; but where a model is sure of another token, that one's is as much.
    slack = 1.0 if dtype == torch.float32 else 1.1 if kind == "wrong" else 1.02
    never_target = slice(len(weight) // 2, None)
    assert error(losses.loss_sum, want) <= error(naive, want) + 1e-6  # the sum over rows has luck, too
    assert error(gx, want_x * factor) <= error(naive_x, want_x * factor) * slack
    assert error(gw, want_w * factor) <= error(naive_w, want_w * factor) * slack
    assert error(gw[never_target], want_w[never_target] * factor) <= 1.2 * error(
        naive_w[never_target], want_w[never_target] * factor
    )


def test_smallest_possible_loss_is_the_entropy_of_the_target() -> None:
    # H(q) for eps = 0.1 and V = 32,000, as the smoothed target's own entropy: 1.36239 nats
    vocabulary, eps = 32_000, 0.1
    q = torch.full((vocabulary,), eps / vocabulary, dtype=torch.float64)
    q[0] += 1 - eps
    loss, _ = linear_cross_entropy(
        torch.ones(1, 1, dtype=torch.float64), q.log()[:, None], torch.tensor([0]), label_smoothing=eps
    )
    assert loss.item() == pytest.approx(1.36239, abs=1e-5)


def test_a_graph_can_be_walked_again_and_what_it_gave_is_its_callers() -> None:
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.3)
    _, gx, gw = ours(hidden, weight, labels, 0.1, None)
    x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss, _ = linear_cross_entropy(x, w, labels, label_smoothing=0.1)
    first = torch.autograd.grad(loss * 0.25, (x, w), retain_graph=True)
    for gradient in first:
        gradient.zero_()
    second = torch.autograd.grad(loss * 3, (x, w))
    torch.testing.assert_close(second, (gx * 3, gw * 3))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, (x, w))


def test_refuses_second_derivatives() -> None:
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.3)
    w = weight.requires_grad_()
    loss, _ = linear_cross_entropy(hidden, w, labels)
    (first,) = torch.autograd.grad(loss * loss, w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("may_wait", [True, False])
def test_rows_without_a_target_do_not_count_even_if_they_hold_nan(
    monkeypatch: pytest.MonkeyPatch, may_wait: bool
) -> None:
    """Not even nan: what a model makes of padding is nobody's business."""
    monkeypatch.setattr(training.loss, "_sync_is_free", lambda device: may_wait)
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.5)
    _, gx, gw = ours(hidden, weight, labels, 0.1, None)
    hidden[labels == -100] = float("nan")
    _, found_x, found_w = ours(hidden, weight, labels, 0.1, None)
    assert torch.equal(found_w, gw)
    assert torch.equal(found_x, gx)
    assert not found_x[labels == -100].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_is_read_before_it_is_written(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Here fresh memory is full of nan. A product in bf16 looks at what lies behind a row of 1,000."""
    hidden, weight, labels = model_like("untrained", dtype)
    monkeypatch.setattr(training.loss, "BYTES_PER_CHUNK", 300 * len(weight) * weight.itemsize)
    _, gx, gw = ours(hidden, weight, labels, 0.1, 30.0)
    torch.use_deterministic_algorithms(True)
    try:
        _, found_x, found_w = ours(hidden, weight, labels, 0.1, 30.0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found_x, gx)
    assert torch.equal(found_w, gw)


PRODUCTS = torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_


class CountsProducts(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in PRODUCTS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("needs_hidden", "needs_weight", "products"),
    [(True, True, 3), (True, False, 2), (False, True, 2), (False, False, 1)],
)
def test_no_product_without_a_gradient_that_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, needs_hidden: bool, needs_weight: bool, products: int
) -> None:
    """In each of three chunks. A frozen head, or one whose input is frozen; and an evaluation."""
    monkeypatch.setattr(training.loss, "BYTES_PER_CHUNK", 3 * 11 * 4)
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.0)
    want, gx, gw = ours(hidden, weight, labels, 0.1, 2.0)
    x, w = hidden.requires_grad_(needs_hidden), weight.requires_grad_(needs_weight)
    with CountsProducts() as counted:
        actual = linear_losses(x, w, labels, label_smoothing=0.1, softcap=2.0)
        if needs_hidden or needs_weight:
            actual.loss_sum.backward()
    assert counted.count == 3 * products
    assert [float(value.detach()) for value in actual] == [float(value) for value in want]
    assert x.grad is None if not needs_hidden else x.grad is not None and torch.equal(x.grad, gx)
    assert w.grad is None if not needs_weight else w.grad is not None and torch.equal(w.grad, gw)
    with torch.no_grad(), CountsProducts() as counted:
        linear_losses(x, w, labels, label_smoothing=0.1, softcap=2.0)
    assert counted.count == 3


def test_a_tied_head_gets_both_of_its_gradients() -> None:
    """The weight is looked up for the hidden state, and multiplies it."""
    _, weight, labels = case(9, 5, 11, seed=3, masked=0.0)
    asked = labels.flip(0)
    w, truth = weight.clone().requires_grad_(), weight.double().requires_grad_()
    linear_losses(w[asked], w, labels, label_smoothing=0.1).loss_sum.backward()
    z = truth[asked] @ truth.T
    torch.nn.functional.cross_entropy(z, labels, label_smoothing=0.1, reduction="sum").backward()
    assert w.grad is not None
    assert truth.grad is not None
    torch.testing.assert_close(w.grad.double(), truth.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_a_step_never_waits_for_a_device(monkeypatch: pytest.MonkeyPatch, softcap: float | None) -> None:
    """On a device without values: who asks for one, or for a number of rows, fails where CUDA would wait."""
    monkeypatch.setattr(training.loss, "BYTES_PER_CHUNK", 4 * 11 * 4)
    x, w = (torch.empty(rows, 5, device="meta", requires_grad=True) for rows in (9, 11))
    labels = torch.empty(9, dtype=torch.int64, device="meta")
    losses = linear_losses(x, w, labels, label_smoothing=0.1, softcap=softcap, temperature=0.5)
    (losses.loss_sum / losses.num_tokens).backward()
    assert x.grad is not None
    assert w.grad is not None
    for question in (losses.num_tokens.item, (labels != -100).nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            question()


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradcheck(softcap: float | None) -> None:
    """Numerical derivatives, and a graph that is walked more than once."""
    hidden, weight, labels = case(5, 3, 7, seed=5, masked=0.3)

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return linear_cross_entropy(x, w, labels, label_smoothing=0.1, softcap=softcap)[0]

    inputs = (hidden.double().requires_grad_(), weight.double().requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 4, 5), {}),
        ((3, 5, 4), {"label_smoothing": 1.0}),
        ((3, 5, 4), {"softcap": 0.0}),
        ((3, 5, 4), {"temperature": 0.0}),
    ],
)
def test_refuses_wrong_arguments(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    rows, width, head_width = shape
    if options:
        head_width = width
    with pytest.raises(ValueError, match=r"must be|not in|not a positive"):
        linear_losses(
            torch.ones(rows, width),
            torch.ones(7, head_width),
            torch.zeros(rows, dtype=torch.int64),
            **options,
        )


def test_refuses_two_dtypes() -> None:
    with pytest.raises(ValueError, match="of one dtype"):
        linear_losses(torch.ones(3, 5), torch.ones(7, 5).bfloat16(), torch.zeros(3, dtype=torch.int64))
