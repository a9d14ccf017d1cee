"""training/loss.py against a float64 reference written without any of its algebra."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

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
    rows=st.integers(1, 40),
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
) -> None:
    hidden, weight, labels = case(rows, width, vocabulary, seed, masked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.loss, "BYTES_PER_CHUNK", chunk * vocabulary * 8)
        patch.setattr(training.loss, "LOGITS_PER_BLOCK", block * vocabulary)
        patch.setattr(training.loss, "VOCABULARY_PER_BLOCK", columns)
        losses, gx, gw = ours(hidden.double(), weight.double(), labels, eps, softcap, temperature)
    want, want_x, want_w = reference(hidden, weight, labels, eps, softcap, temperature)
    nll, *_ = reference(hidden, weight, labels, 0.0, softcap, temperature)
    assert int(losses.num_tokens) == int((labels != -100).sum())
    torch.testing.assert_close(losses.loss_sum, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses.nll_sum, nll, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gx, want_x, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gw, want_w, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("rows_at_once", [10_000, 32])
def test_error_is_at_most_the_naive_one(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, eps: float, softcap: float | None, rows_at_once: int
) -> None:
    """In many chunks, too: a head's gradient that were added up in bf16 would fail here."""
    hidden, weight, labels = case(1024, 64, 1000, seed=1, masked=0.2)
    hidden, weight = hidden.to(dtype), (weight / 8).to(dtype)
    monkeypatch.setattr(training.loss, "BYTES_PER_CHUNK", rows_at_once * len(weight) * weight.itemsize)
    want, want_x, want_w = reference(hidden, weight, labels, eps, softcap)
    losses, gx, gw = ours(hidden, weight, labels, eps, softcap)
    loss = losses.loss_sum
    assert (gx.dtype, gw.dtype) == (dtype, dtype)
    assert loss.dtype == losses.nll_sum.dtype == torch.float32

    x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    z = x @ w.T
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    naive = torch.nn.functional.cross_entropy(z, labels, label_smoothing=eps, reduction="sum")
    naive_x, naive_w = torch.autograd.grad(naive, (x, w))

    def error(found: Tensor, true: Tensor) -> float:
        return float((found.double() - true).norm() / true.norm())

    slack = 1.05 if dtype == torch.bfloat16 else 2.0  # float32: both errors are a few units in the last place
    assert error(loss, want) <= max(error(naive, want) * slack, 1e-6)
    assert error(gx, want_x) <= error(naive_x, want_x) * slack
    assert error(gw, want_w) <= error(naive_w, want_w) * slack


def test_smallest_possible_loss_is_the_entropy_of_the_target() -> None:
    # H(q) for eps = 0.1 and V = 32,000, as the smoothed target's own entropy: 1.36239 nats
    vocabulary, eps = 32_000, 0.1
    q = torch.full((vocabulary,), eps / vocabulary, dtype=torch.float64)
    q[0] += 1 - eps
    loss, _ = linear_cross_entropy(
        torch.ones(1, 1, dtype=torch.float64), q.log()[:, None], torch.tensor([0]), label_smoothing=eps
    )
    assert loss.item() == pytest.approx(1.36239, abs=1e-5)


def test_scaled_loss_scales_gradients_and_frozen_head_gets_none() -> None:
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.3)
    _, gx, _ = ours(hidden, weight, labels, 0.1, None)
    x = hidden.clone().requires_grad_()
    loss, _ = linear_cross_entropy(x, weight, labels, label_smoothing=0.1)
    (loss * 0.25).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gx * 0.25)
    assert weight.grad is None


def test_without_a_gradient_there_is_the_same_loss() -> None:
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.3)
    want, *_ = ours(hidden, weight, labels, 0.1, 2.0)
    with torch.no_grad():
        found = linear_losses(
            hidden, weight.clone().requires_grad_(), labels, label_smoothing=0.1, softcap=2.0
        )
    assert [float(value) for value in found] == [float(value) for value in want]


def test_rows_without_a_target_do_not_count_whatever_is_in_them() -> None:
    """Not even nan: what a model makes of padding is nobody's business."""
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.5)
    _, gx, gw = ours(hidden, weight, labels, 0.1, None)
    hidden[labels == -100] = float("nan")
    _, found_x, found_w = ours(hidden, weight, labels, 0.1, None)
    assert torch.equal(found_w, gw)
    assert torch.equal(found_x, gx)
    assert not found_x[labels == -100].any()


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
def test_a_step_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch, softcap: float | None) -> None:
    """As on CUDA, but with tensors without values: whoever asks for one, or for a count of rows, fails."""
    monkeypatch.setattr(training.loss, "_may_wait", lambda device: False)
    monkeypatch.setattr(training.loss, "BYTES_PER_CHUNK", 4 * 11 * 4)
    with FakeTensorMode():
        x, w = torch.empty(9, 5, requires_grad=True), torch.empty(11, 5, requires_grad=True)
        labels = torch.zeros(9, dtype=torch.int64)
        losses = linear_losses(x, w, labels, label_smoothing=0.1, softcap=softcap, temperature=0.5)
        (losses.loss_sum / losses.num_tokens).backward()
        with pytest.raises(DataDependentOutputException):
            losses.num_tokens.item()
    hidden, weight, labels = case(9, 5, 11, seed=3, masked=0.3)
    found, gx, gw = ours(hidden.double(), weight.double(), labels, 0.1, softcap)
    want, want_x, want_w = reference(hidden, weight, labels, 0.1, softcap)
    torch.testing.assert_close(found.loss_sum, want)
    torch.testing.assert_close(gx, want_x)
    torch.testing.assert_close(gw, want_w)


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
    [((3, 4, 5), {}), ((3, 5, 4), {"label_smoothing": 1.0}), ((3, 5, 4), {"softcap": 0.0})],
)
def test_refuses_wrong_arguments(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    rows, width, head_width = shape
    if options:
        head_width = width
    with pytest.raises(ValueError, match=r"must be|not in|not positive"):
        linear_cross_entropy(
            torch.ones(rows, width),
            torch.ones(7, head_width),
            torch.zeros(rows, dtype=torch.int64),
            **options,
        )
