"""The Triton kernels of `window_attention`: rolling, cutting into windows and putting back are addresses, not copies.

A window of at most 64 tokens fits one tile, so a row of scores is whole: the backward computes the softmax again and
needs neither output nor log-sum-exp. A program holds the bias of one head and walks over windows; so does the bias
gradient, which stays in registers until the walk ends. Programs for all heads of a window run side by side, because
their rows lie side by side in memory.
"""

import triton
import triton.language as tl

from .kernels import LOG2E, matmul


@triton.jit
def places(i, SIDE: tl.constexpr, SHIFT: tl.constexpr, HEIGHT, WIDTH, TOKENS: tl.constexpr):
    """Window i's batch entry; its tokens' rows and columns in the unshifted map; and the region each comes from.

    Shifting the map by SHIFT brings tokens of opposite borders into one window. Tokens may attend to each other if
    they come from one region: if no border ran between them before the shift.
    """
    across, down = WIDTH // SIDE, HEIGHT // SIDE
    t = tl.minimum(tl.arange(0, TOKENS), SIDE * SIDE - 1)  # padding stands with the last token: it must see something
    y = (i // across) % down * SIDE + t // SIDE
    x = i % across * SIDE + t % SIDE
    region = 3 * ((y >= HEIGHT - SIDE).to(tl.int32) + (y >= HEIGHT - SHIFT).to(tl.int32))
    region += (x >= WIDTH - SIDE).to(tl.int32) + (x >= WIDTH - SHIFT).to(tl.int32)
    y, x = y + SHIFT, x + SHIFT
    y, x = tl.where(y >= HEIGHT, y - HEIGHT, y), tl.where(x >= WIDTH, x - WIDTH, x)
    return (i // (across * down)).to(tl.int64), y, x, region


@triton.jit
def load_tokens(base, y, x, s, ok, W: tl.constexpr, W0: tl.constexpr, W1: tl.constexpr):
    """Rows (y, x) of a map of strides s, in two parts as kernels.load_rows has them; zeros where not ok."""
    pointers = base + (y * s[1] + x * s[2])[:, None]
    c0 = tl.arange(0, W0)[None, :]
    x0 = tl.load(pointers + c0, mask=ok[:, None] & (c0 < W), other=0.0)
    x1 = x0
    if W1 > 0:
        c1 = W0 + tl.arange(0, W1)[None, :]
        x1 = tl.load(pointers + c1, mask=ok[:, None] & (c1 < W), other=0.0)
    return x0, x1


@triton.jit
def store_tokens(base, y, x, s, ok, x0, x1, W: tl.constexpr, W0: tl.constexpr, W1: tl.constexpr):
    pointers = base + (y * s[1] + x * s[2])[:, None]
    c0 = tl.arange(0, W0)[None, :]
    tl.store(pointers + c0, x0.to(base.dtype.element_ty), mask=ok[:, None] & (c0 < W))
    if W1 > 0:
        c1 = W0 + tl.arange(0, W1)[None, :]
        tl.store(pointers + c1, x1.to(base.dtype.element_ty), mask=ok[:, None] & (c1 < W))


@triton.jit
def load_bias(Bias, bias_s, head, COUNT: tl.constexpr, TOKENS: tl.constexpr, ACC: tl.constexpr):
    """A head's bias (window^2, window^2) in base 2, padded to the tile: no row may look at a column of padding."""
    t = tl.arange(0, TOKENS)
    rows, columns = t[:, None], t[None, :]
    inside = (rows < COUNT) & (columns < COUNT)
    bias = tl.load(Bias + head * bias_s[0] + rows * bias_s[1] + columns * bias_s[2], mask=inside, other=0.0)
    return tl.where(columns < COUNT, bias.to(ACC) * LOG2E, float("-inf"))


@triton.jit
def weights(q0, q1, k0, k1, bias, region, scale_log2, SHIFT: tl.constexpr, W1: tl.constexpr, ACC: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """exp(scale * q k^T + bias - maximum of the row), masked by region, and what to multiply rows with for softmax."""
    s = matmul(q0, q1, k0, k1, W1, ACC, PRECISION) * scale_log2 + bias
    if SHIFT > 0:
        s = tl.where(region[:, None] == region[None, :], s, float("-inf"))
    p = tl.exp2(s - tl.max(s, 1)[:, None])  # every token sees itself: the maximum is finite
    return p, 1 / tl.sum(p, 1)


@triton.jit
def window_forward(
    QKV, Bias, O, qkv_s, bias_s, o_s, WINDOWS, PROGRAMS, HEADS, HEIGHT, WIDTH, scale_log2,
    SIDE: tl.constexpr, SHIFT: tl.constexpr, TOKENS: tl.constexpr,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % HEADS
    bias = load_bias(Bias, bias_s, head, SIDE * SIDE, TOKENS, ACC)
    ok = tl.arange(0, TOKENS) < SIDE * SIDE
    for i in tl.range(tl.program_id(0) // HEADS, WINDOWS, PROGRAMS):
        b, y, x, region = places(i, SIDE, SHIFT, HEIGHT, WIDTH, TOKENS)
        q = QKV + b * qkv_s[0] + head * qkv_s[4]
        q0, q1 = load_tokens(q, y, x, qkv_s, ok, D, D0, D1)
        k0, k1 = load_tokens(q + qkv_s[3], y, x, qkv_s, ok, D, D0, D1)
        p, norm = weights(q0, q1, k0, k1, bias, region, scale_log2, SHIFT, D1, ACC, PRECISION)
        v0, v1 = load_tokens(q + 2 * qkv_s[3], y, x, qkv_s, ok, D, D0, D1)
        o0 = tl.dot(p.to(v0.dtype), v0, input_precision=PRECISION, out_dtype=ACC) * norm[:, None]
        o1 = o0
        if D1 > 0:
            o1 = tl.dot(p.to(v0.dtype), v1, input_precision=PRECISION, out_dtype=ACC) * norm[:, None]
        store_tokens(O + b * o_s[0] + head * o_s[3], y, x, o_s, ok, o0, o1, D, D0, D1)


@triton.jit
def window_backward(
    QKV, Bias, DO, DQKV, DBias, qkv_s, bias_s, do_s, dqkv_s, WINDOWS, PROGRAMS, HEADS, HEIGHT, WIDTH,
    scale, scale_log2, SIDE: tl.constexpr, SHIFT: tl.constexpr, TOKENS: tl.constexpr,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """DBias: (PROGRAMS, heads, window^2, window^2), a program's share of the sum; none if no gradient is wanted."""
    head = tl.program_id(0) % HEADS
    bias = load_bias(Bias, bias_s, head, SIDE * SIDE, TOKENS, ACC)
    t = tl.arange(0, TOKENS)
    ok = t < SIDE * SIDE
    if DBias is not None:
        dbias = tl.zeros([TOKENS, TOKENS], ACC)
    for i in tl.range(tl.program_id(0) // HEADS, WINDOWS, PROGRAMS):
        b, y, x, region = places(i, SIDE, SHIFT, HEIGHT, WIDTH, TOKENS)
        q = QKV + b * qkv_s[0] + head * qkv_s[4]
        q0, q1 = load_tokens(q, y, x, qkv_s, ok, D, D0, D1)
        k0, k1 = load_tokens(q + qkv_s[3], y, x, qkv_s, ok, D, D0, D1)
        v0, v1 = load_tokens(q + 2 * qkv_s[3], y, x, qkv_s, ok, D, D0, D1)
        do0, do1 = load_tokens(DO + b * do_s[0] + head * do_s[3], y, x, do_s, ok, D, D0, D1)
        p, norm = weights(q0, q1, k0, k1, bias, region, scale_log2, SHIFT, D1, ACC, PRECISION)
        p = p * norm[:, None]
        dp = matmul(do0, do1, v0, v1, D1, ACC, PRECISION)
        ds = p * (dp - tl.sum(p * dp, 1)[:, None])
        if DBias is not None:
            dbias += ds
        turned = tl.trans(p.to(q0.dtype))
        dv0 = tl.dot(turned, do0, input_precision=PRECISION, out_dtype=ACC)
        ds = ds.to(q0.dtype)
        dq0 = tl.dot(ds, k0, input_precision=PRECISION, out_dtype=ACC)
        dk0 = tl.dot(tl.trans(ds), q0, input_precision=PRECISION, out_dtype=ACC)
        dq1, dk1, dv1 = dq0, dk0, dv0
        if D1 > 0:
            dv1 = tl.dot(turned, do1, input_precision=PRECISION, out_dtype=ACC)
            dq1 = tl.dot(ds, k1, input_precision=PRECISION, out_dtype=ACC)
            dk1 = tl.dot(tl.trans(ds), q1, input_precision=PRECISION, out_dtype=ACC)
        dq = DQKV + b * dqkv_s[0] + head * dqkv_s[4]
        store_tokens(dq, y, x, dqkv_s, ok, dq0 * scale, dq1 * scale, D, D0, D1)
        store_tokens(dq + dqkv_s[3], y, x, dqkv_s, ok, dk0 * scale, dk1 * scale, D, D0, D1)
        store_tokens(dq + 2 * dqkv_s[3], y, x, dqkv_s, ok, dv0, dv1, D, D0, D1)
    if DBias is not None:
        count: tl.constexpr = SIDE * SIDE
        out = DBias + tl.program_id(0).to(tl.int64) * (count * count) + t[:, None] * count + t[None, :]
        tl.store(out, dbias, mask=ok[:, None] & ok[None, :])
