"""Checks of the exercises in the chapter on efficient mixing."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import exercise, expect


@exercise("efficient-mixing-features")
def features(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """answer(x (..., N, D), w (F, D)) are F features (..., N, F) whose products over F are exp(x y) on average."""
    x, y = 0.4 * torch.randn(2, 1, 5, 8)
    w = torch.randn(20_000, 8)
    f_x, f_y = answer(x, w), answer(y, w)
    expect(isinstance(f_x, Tensor), f"it returned a {type(f_x).__name__}, not a tensor")
    expect(f_x.shape == (1, 5, 20_000), f"for x (1, 5, 8) and 20000 directions it has the shape {tuple(f_x.shape)}")
    expect(bool((f_x >= 0).all()), f"a feature is negative: {f_x.min():.3f}")
    ratio = ((f_x @ f_y.mT) / (x @ y.mT).exp()).mean()
    expect(abs(ratio.item() - 1) < 0.05, f"f(x) f(y) is {ratio:.2f} times exp(x y), as a mean over 25 pairs")
    far = torch.full((1, 1, 8), 0.8)
    opposite = (answer(far, w) @ answer(-far, w).mT).item() / torch.tensor(-8 * 0.64).exp().item()
    expect(abs(opposite - 1) < 0.1, f"for two opposite vectors f(x) f(y) is {opposite:.2f} times exp(x y)")


@exercise("efficient-mixing-prefix-sums")
def prefix_sums(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """answer(f_q (B, N, F), f_k (B, N, F), v (B, N, E)) is the mean of the values so far by weights f_q f_k."""
    f_q, f_k = torch.rand(2, 2, 7, 5) + 0.1
    v = torch.randn(2, 7, 3)
    out = answer(f_q, f_k, v)
    expect(isinstance(out, Tensor), f"it returned a {type(out).__name__}, not a tensor")
    expect(out.shape == (2, 7, 3), f"for features (2, 7, 5) and values (2, 7, 3) it has the shape {tuple(out.shape)}")
    first = (out[:, 0] - v[:, 0]).abs().max().item()
    expect(first < 1e-5, f"the first token sees itself only, and its output is {first:.3f} away from its value")
    ones = (answer(f_q, f_k, torch.ones(2, 7, 3)) - 1).abs().max().item()
    expect(ones < 1e-5, f"values of one become {1 + ones:.3f}: the weights do not sum to one")
    later = v.clone()
    later[:, 5:] += 1
    expect(bool(torch.equal(answer(f_q, f_k, later)[:, :5], out[:, :5])), "another value at place 5 changes place 4")
    weights = (f_q @ f_k.mT).tril()
    error = (out - weights @ v / weights.sum(-1, keepdim=True)).abs().max().item()
    expect(error < 1e-4, f"it is {error:.3f} away from the triangle of weights")


@exercise("efficient-mixing-fourier")
def fourier(answer: Callable[[int], Tensor]) -> None:
    """answer(n) is the matrix (n, n) by which the real part of the transform over tokens mixes n tokens."""
    for n in (1, 5, 8):
        matrix = answer(n)
        expect(isinstance(matrix, Tensor), f"it returned a {type(matrix).__name__}, not a tensor")
        expect(matrix.shape == (n, n), f"for n={n} it has the shape {tuple(matrix.shape)}")
        expect(not matrix.is_complex(), f"for n={n} its numbers are complex, and the layer keeps the real part")
        x = torch.randn(n, 3)
        expected = torch.fft.fft(x, dim=0).real
        error = (matrix.to(x.dtype) @ x - expected).abs().max().item()
        expect(error < 1e-4, f"for n={n} the mixed tokens are {error:.3f} away from those of the transform")
