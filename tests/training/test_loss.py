"""training/loss.py against a float64 reference written without any of its algebra."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import training.loss
from training.loss import linear_cross_entropy


def reference(
    hidden: Tensor, weight: Tensor, labels: Tensor, eps: float, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss sum and both gradients in float64, by torch's own cross_entropy and autograd."""
    x = hidden.detach().double().requires_grad_()
    w = weight.detach().double().requires_grad_()
    z = x @ w.T
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    loss = torch.nn.functional.cross_entropy(z, labels, label_smoothing=eps, reduction="sum")
    if (labels == -100).all():  # torch gives the sum over nothing as 0, with a gradient of 0
        return torch.zeros((), dtype=torch.float64), torch.zeros_like(x), torch.zeros_like(w)
    gx, gw = torch.autograd.grad(loss, (x, w))
    return loss.detach(), gx, gw


def ours(
    hidden: Tensor, weight: Tensor, labels: Tensor, eps: float, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor, int]:
    x, w = hidden.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    loss, num_tokens = linear_cross_entropy(x, w, labels, label_smoothing=eps, softcap=softcap)
    loss.backward()
    assert x.grad is not None
    assert w.grad is not None
    return loss.detach(), x.grad, w.grad, int(num_tokens)


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
    chunk=st.sampled_from([1, 7, 10_000]),
    block=st.sampled_from([1, 3, 10_000]),
)
def test_equals_float64_reference(
    rows: int,
    width: int,
    vocabulary: int,
    seed: int,
    masked: float,
    eps: float,
    softcap: float | None,
    chunk: int,
    block: int,
) -> None:
    hidden, weight, labels = case(rows, width, vocabulary, seed, masked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.loss, "LOGITS_PER_CHUNK", chunk * vocabulary)
        patch.setattr(training.loss, "LOGITS_PER_BLOCK", block * vocabulary)
        loss, gx, gw, num_tokens = ours(hidden.double(), weight.double(), labels, eps, softcap)
    want, want_x, want_w = reference(hidden, weight, labels, eps, softcap)
    assert num_tokens == int((labels != -100).sum())
    torch.testing.assert_close(loss, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gx, want_x, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gw, want_w, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_error_is_at_most_the_naive_one(dtype: torch.dtype, eps: float, softcap: float | None) -> None:
    hidden, weight, labels = case(256, 64, 3000, seed=1, masked=0.2)
    hidden, weight = hidden.to(dtype), (weight / 8).to(dtype)
    want, want_x, want_w = reference(hidden, weight, labels, eps, softcap)
    loss, gx, gw, _ = ours(hidden, weight, labels, eps, softcap)
    assert loss.dtype == torch.float32

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
    _, gx, _, _ = ours(hidden, weight, labels, 0.1, None)
    x = hidden.clone().requires_grad_()
    loss, _ = linear_cross_entropy(x, weight, labels, label_smoothing=0.1)
    (loss * 0.25).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gx * 0.25)
    assert weight.grad is None


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
