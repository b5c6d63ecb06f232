"""The Triton kernels of `attention`: online softmax forward, and a backward without atomics.

Written from the algorithm (Dao et al. 2022, algorithms 1 and 4; Dao 2023, section 3). A program owns a block of rows
and walks over tiles of the other side, so the (N, M) scores exist one tile at a time, in registers. Every sum has one
owner and one order: results repeat bit for bit.

Softmax is computed in base 2, which is what the hardware has: exp(x) = exp2(x * log2(e)). The log-sum-exp that leaves
is natural. Triton decides when this module is imported whether kernels are compiled for a GPU or interpreted on the
CPU (TRITON_INTERPRET=1).
"""

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(-1.0e30)  # the running maximum before any key: finite, because exp2(-inf - -inf) is NaN


@triton.jit
def load_rows(
    base, start, stride, ok, MASKED: tl.constexpr, ROWS: tl.constexpr, W: tl.constexpr, W0: tl.constexpr,
    W1: tl.constexpr,
):  # fmt: skip
    """Rows start .. start + ROWS of a matrix of width W, as tiles of width W0 and W1: a head width of 80 is 64 + 16,
    where one tile would be padded to 128. Rows that are not `ok` are zeros whatever is stored there, NaN included.
    Without a second part (W1 = 0) it repeats the first, unused."""
    base += start.to(tl.int64) * stride  # a tile's own offsets fit 32 bits, a tensor's need not
    pointers = base + tl.arange(0, ROWS)[:, None] * stride
    c0 = tl.arange(0, W0)[None, :]
    if W0 > W:
        x0 = tl.load(pointers + c0, mask=ok[:, None] & (c0 < W), other=0.0)
    elif MASKED:
        x0 = tl.load(pointers + c0, mask=ok[:, None], other=0.0)
    else:
        x0 = tl.load(pointers + c0)
    x1 = x0
    if W1 > 0:
        c1 = W0 + tl.arange(0, W1)[None, :]
        if W0 + W1 > W:
            x1 = tl.load(pointers + c1, mask=ok[:, None] & (c1 < W), other=0.0)
        elif MASKED:
            x1 = tl.load(pointers + c1, mask=ok[:, None], other=0.0)
        else:
            x1 = tl.load(pointers + c1)
    return x0, x1


@triton.jit
def store_rows(
    base, start, stride, ok, x0, x1, ROWS: tl.constexpr, W: tl.constexpr, W0: tl.constexpr, W1: tl.constexpr
):
    """The inverse of load_rows: writes the rows that are `ok`."""
    base += start.to(tl.int64) * stride
    pointers = base + tl.arange(0, ROWS)[:, None] * stride
    c0 = tl.arange(0, W0)[None, :]
    tl.store(pointers + c0, x0.to(base.dtype.element_ty), mask=ok[:, None] & (c0 < W))
    if W1 > 0:
        c1 = W0 + tl.arange(0, W1)[None, :]
        tl.store(pointers + c1, x1.to(base.dtype.element_ty), mask=ok[:, None] & (c1 < W))


@triton.jit
def matmul(a0, a1, b0, b1, W1: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """a @ b^T over a width that is stored in two parts."""
    c = tl.dot(a0, tl.trans(b0), input_precision=PRECISION, out_dtype=ACC)
    if W1 > 0:
        c = tl.dot(a1, tl.trans(b1), c, input_precision=PRECISION, out_dtype=ACC)
    return c


@triton.jit
def tanh(x):
    """Odd series near 0, where the quotient would cancel; exp2 overflows to the right limit elsewhere."""
    y = x * x
    series = x * (1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835 - y * 1382 / 155925)))))
    return tl.where(y < 0.04, series, 1 - 2 / (tl.exp2(x * (2 * LOG2E)) + 1))


@triton.jit
def logits(
    s, row, r, key, c, key_ok, N, M, scale, Bias, bias_s, Mask, mask_s,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Products q k^T to logits, with -inf where a query may not look; and the tanh of the cap, for the backward.

    The tile stands at (row, key); r and c count inside it and broadcast against s, which may be (queries, keys) or
    its transpose. Without bias and cap the logits stay raw products: `factor` then turns them to base 2 inside the
    exponential, where a multiplication is free.
    """
    rows, keys, capped = row + r, key + c, s
    if SOFTCAP > 0:
        capped = tanh(s * (scale / SOFTCAP))
        s = capped * (SOFTCAP * LOG2E)
    if Bias is not None:
        if SOFTCAP == 0:
            s = s * (scale * LOG2E)
        where = Bias + row.to(tl.int64) * bias_s[2] + key.to(tl.int64) * bias_s[3] + (r * bias_s[2] + c * bias_s[3])
        bias = tl.load(where, mask=(rows < N) & (keys < M), other=0.0)
        s += bias.to(s.dtype) * LOG2E
    if EDGE:
        ok = key_ok
        position = rows + (M - N)  # the last query stands beside the last key
        if CAUSAL:
            ok = ok & (keys <= position)
        if WINDOW > 0:
            ok = ok & (position - keys < WINDOW)
            if not CAUSAL:
                ok = ok & (keys - position < WINDOW)
        if Mask is not None:
            where = Mask + row.to(tl.int64) * mask_s[2] + key.to(tl.int64) * mask_s[3]
            where += r * mask_s[2] + c * mask_s[3]
            ok = ok & (tl.load(where, mask=(rows < N) & (keys < M), other=0) != 0)
        s = tl.where(ok, s, float("-inf"))
    return s, capped


@triton.jit
def keys_seen(first_row, last_row, N, M, Bounds, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The range of keys that some row of first_row .. last_row sees, and the range that every one of them sees."""
    low, high, full_low, full_high = 0, M, 0, M
    if Bounds is not None:
        low = tl.load(Bounds)
        high = tl.load(Bounds + 1)
        full_low = low
        full_high = tl.where(tl.load(Bounds + 2) == high - low, high, 0)  # a mask with holes: no tile is whole
    first, last = first_row + (M - N), last_row + (M - N)
    if CAUSAL:
        high, full_high = tl.minimum(high, last + 1), tl.minimum(full_high, first + 1)
    if WINDOW > 0:
        low, full_low = tl.maximum(low, first - WINDOW + 1), tl.maximum(full_low, last - WINDOW + 1)
        if not CAUSAL:
            high, full_high = tl.minimum(high, last + WINDOW), tl.minimum(full_high, first + WINDOW)
    return low, high, full_low, full_high


@triton.jit
def rows_that_see(first_key, last_key, N, M, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The range of rows that see some key of first_key .. last_key, and the range that sees every one of them."""
    low, high, full_low, full_high = 0, N, 0, N
    first, last = first_key - (M - N), last_key - (M - N)
    if CAUSAL:
        low, full_low = first, last
    if WINDOW > 0:
        high, full_high = tl.minimum(N, last + WINDOW), tl.minimum(N, first + WINDOW)
        if not CAUSAL:
            low, full_low = first - WINDOW + 1, last - WINDOW + 1
    return low, high, full_low, full_high


@triton.jit
def split_tiles(low, high, full_low, full_high, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """Tiles a .. d touch [low, high); of these, b .. c lie in [full_low, full_high) and need no masks.

    WHOLE = False finds none of the latter.
    """
    a = tl.maximum(low, 0) // BLOCK
    d = tl.maximum(tl.cdiv(tl.maximum(high, 0), BLOCK), a)
    b, c = d, d
    if WHOLE:
        b = tl.minimum(tl.maximum(tl.cdiv(tl.maximum(full_low, 0), BLOCK), a), d)
        c = tl.maximum(tl.minimum(tl.maximum(full_high, 0) // BLOCK, d), b)
    return a, b, c, d


@triton.jit
def attention_bounds(KeyMask, keys_s, Bounds, M, BLOCK: tl.constexpr):
    """For each batch entry: the first real key, one past the last, and how many there are."""
    batch = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    first = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
    end, count = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for start in tl.range(0, M, BLOCK):
        keys = start + index
        seen = tl.load(KeyMask + batch * keys_s[0] + keys.to(tl.int64) * keys_s[1], mask=keys < M, other=0) != 0
        first = tl.minimum(first, tl.where(seen, keys, M))
        end = tl.maximum(end, tl.where(seen, keys + 1, 0))
        count += seen.to(tl.int32)
    tl.store(Bounds + batch * 3, tl.min(first))
    tl.store(Bounds + batch * 3 + 1, tl.max(end))
    tl.store(Bounds + batch * 3 + 2, tl.sum(count))


@triton.jit
def attention_forward(
    Q, K, V, O, LSE, Bias, Mask, KeyMask, Bounds, q_s, k_s, v_s, o_s, bias_s, mask_s, keys_s,
    H, GROUP, N, M, scale, scale_log2,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, E: tl.constexpr, E0: tl.constexpr, E1: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, WHOLE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM queries of one head, walking over tiles of BN keys. The sums are rescaled whenever the running
    maximum m grows, so that no exponential overflows and no score is read twice."""
    blocks = tl.cdiv(N, BM)
    block, head = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    if CAUSAL:
        block = blocks - 1 - block  # the longest rows first, so that the last programs to run are short
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    K += b * k_s[0] + (h // GROUP) * k_s[1]
    V += b * v_s[0] + (h // GROUP) * v_s[1]
    if Bias is not None:
        Bias += b * bias_s[0] + h * bias_s[1]
    if Mask is not None:
        Mask += b * mask_s[0] + h * mask_s[1]
    if KeyMask is not None:
        KeyMask += b * keys_s[0]
        Bounds += b * 3

    row, r, c = block * BM, tl.arange(0, BM), tl.arange(0, BN)
    rows_ok = row + r < N
    q0, q1 = load_rows(Q + b * q_s[0] + h * q_s[1], row, q_s[2], rows_ok, True, BM, D, D0, D1)
    m = tl.full([BM], NEVER, ACC)
    l = tl.zeros([BM], ACC)
    o0 = tl.zeros([BM, E0], ACC)
    o1 = o0
    if E1 > 0:
        o1 = tl.zeros([BM, E1], ACC)
    PLAIN: tl.constexpr = Bias is None and SOFTCAP == 0

    low, high, full_low, full_high = keys_seen(row, tl.minimum(row + BM, N) - 1, N, M, Bounds, CAUSAL, WINDOW)
    first, inner, outer, last = split_tiles(low, high, full_low, full_high, BN, WHOLE)
    for INNER in tl.static_range(2 if WHOLE else 1):  # 0: tiles on the edges, which need masks; 1: those between
        for i in tl.range(inner if INNER else first, outer if INNER else last - (outer - inner)):
            key = i * BN
            if INNER == 0:
                key += tl.where(i >= inner, outer - inner, 0) * BN
            key_ok = key + c < M
            if INNER == 0 and KeyMask is not None:
                key_ok = tl.load(KeyMask + (key + c).to(tl.int64) * keys_s[1], mask=key_ok, other=0) != 0
            k0, k1 = load_rows(K, key, k_s[2], key_ok, INNER == 0, BN, D, D0, D1)
            s = matmul(q0, q1, k0, k1, D1, ACC, PRECISION)
            s, _ = logits(s, row, r[:, None], key, c[None, :], key_ok[None, :], N, M, scale, Bias, bias_s, Mask, mask_s,
                          CAUSAL, WINDOW, SOFTCAP, INNER == 0)  # fmt: skip
            if PLAIN:
                new = tl.maximum(m, tl.max(s, 1) * scale_log2)
                p = tl.exp2(s * scale_log2 - new[:, None])
            else:
                new = tl.maximum(m, tl.max(s, 1))
                p = tl.exp2(s - new[:, None])
            rescale = tl.exp2(m - new)
            m = new
            l = l * rescale + tl.sum(p, 1)
            v0, v1 = load_rows(V, key, v_s[2], key_ok, INNER == 0, BN, E, E0, E1)
            p = p.to(v0.dtype)
            o0 = tl.dot(p, v0, o0 * rescale[:, None], input_precision=PRECISION, out_dtype=ACC)
            if E1 > 0:
                o1 = tl.dot(p, v1, o1 * rescale[:, None], input_precision=PRECISION, out_dtype=ACC)

    none = l == 0  # a query that saw no key
    l = tl.where(none, 1.0, l)
    store_rows(O + b * o_s[0] + h * o_s[1], row, o_s[2], rows_ok, o0 / l[:, None], o1 / l[:, None], BM, E, E0, E1)
    lse = tl.where(none, float("-inf"), (m + tl.log2(l)) * LN2)
    tl.store(LSE + head.to(tl.int64) * N + row + r, lse, mask=rows_ok)


@triton.jit
def attention_delta(
    O, DO, DLSE, Delta, o_s, do_s, dlse_s, H, N,
    E: tl.constexpr, E0: tl.constexpr, E1: tl.constexpr, BM: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """delta = rowsum(o * do) - dlse: what the softmax's gradient subtracts from every dp of a row."""
    blocks = tl.cdiv(N, BM)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    row, r, b, h = tl.program_id(0) % blocks * BM, tl.arange(0, BM), head // H, head % H
    rows_ok = row + r < N
    o0, o1 = load_rows(O + b * o_s[0] + h * o_s[1], row, o_s[2], rows_ok, True, BM, E, E0, E1)
    do0, do1 = load_rows(DO + b * do_s[0] + h * do_s[1], row, do_s[2], rows_ok, True, BM, E, E0, E1)
    delta = tl.sum(o0.to(ACC) * do0.to(ACC), 1)
    if E1 > 0:
        delta += tl.sum(o1.to(ACC) * do1.to(ACC), 1)
    if DLSE is not None:
        where = DLSE + b * dlse_s[0] + h * dlse_s[1] + (row + r).to(tl.int64) * dlse_s[2]
        delta -= tl.load(where, mask=rows_ok, other=0.0).to(ACC)
    tl.store(Delta + head * N + row + r, delta, mask=rows_ok)


@triton.jit
def gradient_of_keys(
    Q, K, V, DO, LSE, Delta, DK, DV, Bias, Mask, KeyMask, Bounds,
    q_s, k_s, v_s, do_s, dk_s, dv_s, bias_s, mask_s, keys_s,
    b, g, block, H, GROUP, N, M, scale, scale_log2,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, E: tl.constexpr, E0: tl.constexpr, E1: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, WHOLE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dK and dV of BN keys: a walk over every tile of BM queries that sees them, in every head of the group.

    Tiles are transposed, (keys, queries), so that p and ds multiply from the left without being turned.
    """
    key, c, r = block * BN, tl.arange(0, BN), tl.arange(0, BM)
    in_range = key + c < M
    key_ok = in_range
    if KeyMask is not None:
        key_ok = tl.load(KeyMask + b * keys_s[0] + (key + c).to(tl.int64) * keys_s[1], mask=in_range, other=0) != 0
    k0, k1 = load_rows(K + b * k_s[0] + g * k_s[1], key, k_s[2], key_ok, True, BN, D, D0, D1)
    v0, v1 = load_rows(V + b * v_s[0] + g * v_s[1], key, v_s[2], key_ok, True, BN, E, E0, E1)
    dk0, dv0 = tl.zeros([BN, D0], ACC), tl.zeros([BN, E0], ACC)
    dk1, dv1 = dk0, dv0
    if D1 > 0:
        dk1 = tl.zeros([BN, D1], ACC)
    if E1 > 0:
        dv1 = tl.zeros([BN, E1], ACC)
    PLAIN: tl.constexpr = Bias is None and SOFTCAP == 0

    low, high, full_low, full_high = rows_that_see(key, tl.minimum(key + BN, M) - 1, N, M, CAUSAL, WINDOW)
    if KeyMask is not None:  # a block that holds padding alone walks over nothing
        high = tl.where((key < tl.load(Bounds + b * 3 + 1)) & (key + BN > tl.load(Bounds + b * 3)), high, 0)
    first, inner, outer, last = split_tiles(low, high, full_low, full_high, BM, WHOLE)
    for member in tl.range(0, GROUP):
        h = g * GROUP + member
        statistics = (b * H + h) * N
        bias, mask = Bias, Mask
        if Bias is not None:
            bias = Bias + b * bias_s[0] + h * bias_s[1]
        if Mask is not None:
            mask = Mask + b * mask_s[0] + h * mask_s[1]
        for INNER in tl.static_range(2 if WHOLE else 1):
            for i in tl.range(inner if INNER else first, outer if INNER else last - (outer - inner)):
                row = i * BM
                if INNER == 0:
                    row += tl.where(i >= inner, outer - inner, 0) * BM
                rows_ok = row + r < N
                q0, q1 = load_rows(Q + b * q_s[0] + h * q_s[1], row, q_s[2], rows_ok, INNER == 0, BM, D, D0, D1)
                lse = tl.load(LSE + statistics + row + r, mask=rows_ok, other=float("inf"))
                lse = tl.where(lse == float("-inf"), float("inf"), lse) * LOG2E  # such rows get p = 0
                s = matmul(k0, k1, q0, q1, D1, ACC, PRECISION)
                s, capped = logits(s, row, r[None, :], key, c[:, None], key_ok[:, None], N, M, scale, bias, bias_s,
                                   mask, mask_s, CAUSAL, WINDOW, SOFTCAP, INNER == 0)  # fmt: skip
                p = tl.exp2(s * scale_log2 - lse[None, :]) if PLAIN else tl.exp2(s - lse[None, :])
                do0, do1 = load_rows(DO + b * do_s[0] + h * do_s[1], row, do_s[2], rows_ok, INNER == 0, BM, E, E0, E1)
                dv0 = tl.dot(p.to(do0.dtype), do0, dv0, input_precision=PRECISION, out_dtype=ACC)
                if E1 > 0:
                    dv1 = tl.dot(p.to(do0.dtype), do1, dv1, input_precision=PRECISION, out_dtype=ACC)
                dp = matmul(v0, v1, do0, do1, E1, ACC, PRECISION)
                delta = tl.load(Delta + statistics + row + r, mask=rows_ok, other=0.0)
                ds = p * (dp - delta[None, :])
                if SOFTCAP > 0:
                    ds = ds * (1 - capped * capped)
                ds = ds.to(q0.dtype)
                dk0 = tl.dot(ds, q0, dk0, input_precision=PRECISION, out_dtype=ACC)
                if D1 > 0:
                    dk1 = tl.dot(ds, q1, dk1, input_precision=PRECISION, out_dtype=ACC)

    padding = (in_range != key_ok)[:, None]  # nobody saw these keys; a row's sums never leave the row
    dk0, dk1 = tl.where(padding, 0.0, dk0 * scale), tl.where(padding, 0.0, dk1 * scale)
    dv0, dv1 = tl.where(padding, 0.0, dv0), tl.where(padding, 0.0, dv1)
    store_rows(DK + b * dk_s[0] + g * dk_s[1], key, dk_s[2], in_range, dk0, dk1, BN, D, D0, D1)
    store_rows(DV + b * dv_s[0] + g * dv_s[1], key, dv_s[2], in_range, dv0, dv1, BN, E, E0, E1)


@triton.jit
def gradient_of_queries(
    Q, K, V, DO, LSE, Delta, DQ, Bias, DBias, Mask, KeyMask, Bounds,
    q_s, k_s, v_s, do_s, dq_s, bias_s, mask_s, keys_s,
    b, h, block, H, GROUP, N, M, scale, scale_log2,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, E: tl.constexpr, E0: tl.constexpr, E1: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, WHOLE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQ of BM queries: the forward's walk again. A bias of full size gets its gradient on the way, ds itself."""
    row, r, c = block * BM, tl.arange(0, BM), tl.arange(0, BN)
    rows_ok = row + r < N
    K += b * k_s[0] + (h // GROUP) * k_s[1]
    V += b * v_s[0] + (h // GROUP) * v_s[1]
    if Bias is not None:
        Bias += b * bias_s[0] + h * bias_s[1]
    if Mask is not None:
        Mask += b * mask_s[0] + h * mask_s[1]
    if KeyMask is not None:
        KeyMask += b * keys_s[0]
        Bounds += b * 3
    q0, q1 = load_rows(Q + b * q_s[0] + h * q_s[1], row, q_s[2], rows_ok, True, BM, D, D0, D1)
    do0, do1 = load_rows(DO + b * do_s[0] + h * do_s[1], row, do_s[2], rows_ok, True, BM, E, E0, E1)
    statistics = (b * H + h) * N + row
    lse = tl.load(LSE + statistics + r, mask=rows_ok, other=float("inf"))
    lse = tl.where(lse == float("-inf"), float("inf"), lse) * LOG2E
    delta = tl.load(Delta + statistics + r, mask=rows_ok, other=0.0)
    dq0 = tl.zeros([BM, D0], ACC)
    dq1 = dq0
    if D1 > 0:
        dq1 = tl.zeros([BM, D1], ACC)
    PLAIN: tl.constexpr = Bias is None and SOFTCAP == 0

    low, high, full_low, full_high = keys_seen(row, tl.minimum(row + BM, N) - 1, N, M, Bounds, CAUSAL, WINDOW)
    first, inner, outer, last = split_tiles(low, high, full_low, full_high, BN, WHOLE)
    for INNER in tl.static_range(2 if WHOLE else 1):
        for i in tl.range(inner if INNER else first, outer if INNER else last - (outer - inner)):
            key = i * BN
            if INNER == 0:
                key += tl.where(i >= inner, outer - inner, 0) * BN
            key_ok = key + c < M
            if INNER == 0 and KeyMask is not None:
                key_ok = tl.load(KeyMask + (key + c).to(tl.int64) * keys_s[1], mask=key_ok, other=0) != 0
            k0, k1 = load_rows(K, key, k_s[2], key_ok, INNER == 0, BN, D, D0, D1)
            v0, v1 = load_rows(V, key, v_s[2], key_ok, INNER == 0, BN, E, E0, E1)
            s = matmul(q0, q1, k0, k1, D1, ACC, PRECISION)
            s, capped = logits(s, row, r[:, None], key, c[None, :], key_ok[None, :], N, M, scale, Bias, bias_s, Mask,
                               mask_s, CAUSAL, WINDOW, SOFTCAP, INNER == 0)  # fmt: skip
            p = tl.exp2(s * scale_log2 - lse[:, None]) if PLAIN else tl.exp2(s - lse[:, None])
            ds = p * (matmul(do0, do1, v0, v1, E1, ACC, PRECISION) - delta[:, None])
            if DBias is not None:
                where = DBias + (statistics + r)[:, None] * M + (key + c)[None, :]
                tl.store(where, ds.to(DBias.dtype.element_ty), mask=rows_ok[:, None] & (key + c < M)[None, :])
            if SOFTCAP > 0:
                ds = ds * (1 - capped * capped)
            ds = ds.to(k0.dtype)
            dq0 = tl.dot(ds, k0, dq0, input_precision=PRECISION, out_dtype=ACC)
            if D1 > 0:
                dq1 = tl.dot(ds, k1, dq1, input_precision=PRECISION, out_dtype=ACC)
    store_rows(DQ + b * dq_s[0] + h * dq_s[1], row, dq_s[2], rows_ok, dq0 * scale, dq1 * scale, BM, D, D0, D1)


@triton.jit
def attention_backward(
    Q, K, V, DO, LSE, Delta, DQ, DK, DV, Bias, DBias, Mask, KeyMask, Bounds,
    q_s, k_s, v_s, do_s, dq_s, dk_s, dv_s, bias_s, mask_s, keys_s,
    H, GROUP, N, M, scale, scale_log2,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, E: tl.constexpr, E0: tl.constexpr, E1: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, WHOLE: tl.constexpr,
    BM1: tl.constexpr, BN1: tl.constexpr, BM2: tl.constexpr, BN2: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Programs of one key/value head stand side by side, those for its keys before those for its queries, so that what
    the first read from memory the others find in the cache."""
    key_blocks, row_blocks = tl.cdiv(M, BN1), tl.cdiv(N, BM2)
    programs = key_blocks + GROUP * row_blocks
    pair, i = tl.program_id(0) // programs, tl.program_id(0) % programs
    b, g = (pair // (H // GROUP)).to(tl.int64), (pair % (H // GROUP)).to(tl.int64)
    if i < key_blocks:
        gradient_of_keys(
            Q, K, V, DO, LSE, Delta, DK, DV, Bias, Mask, KeyMask, Bounds,
            q_s, k_s, v_s, do_s, dk_s, dv_s, bias_s, mask_s, keys_s, b, g, i, H, GROUP, N, M, scale, scale_log2,
            D, D0, D1, E, E0, E1, CAUSAL, WINDOW, SOFTCAP, WHOLE, BM1, BN1, ACC, PRECISION,
        )  # fmt: skip
    else:
        i = i - key_blocks
        block = i % row_blocks
        if CAUSAL:
            block = row_blocks - 1 - block
        gradient_of_queries(
            Q, K, V, DO, LSE, Delta, DQ, Bias, DBias, Mask, KeyMask, Bounds,
            q_s, k_s, v_s, do_s, dq_s, bias_s, mask_s, keys_s, b, g * GROUP + i // row_blocks, block,
            H, GROUP, N, M, scale, scale_log2,
            D, D0, D1, E, E0, E1, CAUSAL, WINDOW, SOFTCAP, WHOLE, BM2, BN2, ACC, PRECISION,
        )  # fmt: skip


@triton.jit
def attention_bias_gradient(
    Q, K, V, DO, LSE, Delta, DBias, Bias, Mask, KeyMask,
    q_s, k_s, v_s, do_s, dbias_s, bias_s, mask_s, keys_s,
    B, H, GROUP, N, M, scale,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, E: tl.constexpr, E0: tl.constexpr, E1: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    OVER_BATCH: tl.constexpr, OVER_HEADS: tl.constexpr, OVER_ROWS: tl.constexpr, OVER_KEYS: tl.constexpr,
    SPLITS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of a bias that is shared: one program sums ds over the batch entries and heads that share a tile,
    in registers and in order. Sums over rows or keys, and over SPLITS of a long batch, leave as partial sums."""
    row_blocks, key_blocks = tl.cdiv(N, BM), tl.cdiv(M, BN)
    i = tl.program_id(0)
    key_block, i = i % key_blocks, i // key_blocks
    row_block, i = i % row_blocks, i // row_blocks
    split, i = i % SPLITS, i // SPLITS
    heads = 1 if OVER_HEADS else H  # that have a gradient of their own
    shared_heads, shared = H // heads, (B if OVER_BATCH else 1) * (H // heads)
    row, key, r, c = row_block * BM, key_block * BN, tl.arange(0, BM), tl.arange(0, BN)
    rows_ok, in_range = row + r < N, key + c < M

    begin, end = split * shared // SPLITS, (split + 1) * shared // SPLITS
    if CAUSAL:  # a tile above the diagonal walks over nothing
        end = tl.where(key <= row + BM - 1 + M - N, end, begin)
    total = tl.zeros([BM, BN], ACC)
    for j in tl.range(begin, end):
        b = (j // shared_heads + i // heads).to(tl.int64)
        h = (j % shared_heads + i % heads).to(tl.int64)
        key_ok = in_range
        if KeyMask is not None:
            where = KeyMask + b * keys_s[0] + (key + c).to(tl.int64) * keys_s[1]
            key_ok = tl.load(where, mask=in_range, other=0) != 0
        q0, q1 = load_rows(Q + b * q_s[0] + h * q_s[1], row, q_s[2], rows_ok, True, BM, D, D0, D1)
        k0, k1 = load_rows(K + b * k_s[0] + (h // GROUP) * k_s[1], key, k_s[2], key_ok, True, BN, D, D0, D1)
        statistics = (b * H + h) * N + row
        lse = tl.load(LSE + statistics + r, mask=rows_ok, other=float("inf"))
        lse = tl.where(lse == float("-inf"), float("inf"), lse) * LOG2E
        delta = tl.load(Delta + statistics + r, mask=rows_ok, other=0.0)
        bias, mask = Bias + b * bias_s[0] + h * bias_s[1], Mask
        if Mask is not None:
            mask = Mask + b * mask_s[0] + h * mask_s[1]
        s = matmul(q0, q1, k0, k1, D1, ACC, PRECISION)
        s, _ = logits(s, row, r[:, None], key, c[None, :], key_ok[None, :], N, M, scale, bias, bias_s, mask, mask_s,
                      CAUSAL, WINDOW, SOFTCAP, True)  # fmt: skip
        do0, do1 = load_rows(DO + b * do_s[0] + h * do_s[1], row, do_s[2], rows_ok, True, BM, E, E0, E1)
        v0, v1 = load_rows(V + b * v_s[0] + (h // GROUP) * v_s[1], key, v_s[2], key_ok, True, BN, E, E0, E1)
        dp = matmul(do0, do1, v0, v1, E1, ACC, PRECISION)
        total += tl.exp2(s - lse[:, None]) * (dp - delta[:, None])

    out = DBias + split.to(tl.int64) * dbias_s[0] + (i // heads).to(tl.int64) * dbias_s[1]
    out += (i % heads).to(tl.int64) * dbias_s[2]
    if OVER_ROWS and OVER_KEYS:
        tl.store(out + row_block.to(tl.int64) * dbias_s[3] + key_block, tl.sum(tl.sum(total, 1), 0))
    elif OVER_ROWS:
        tl.store(out + row_block.to(tl.int64) * dbias_s[3] + key + c, tl.sum(total, 0), mask=in_range)
    elif OVER_KEYS:
        tl.store(out + (row + r).to(tl.int64) * dbias_s[3] + key_block, tl.sum(total, 1), mask=rows_ok)
    else:
        where = out + row.to(tl.int64) * dbias_s[3] + key + r[:, None] * dbias_s[3] + c[None, :]
        tl.store(where, total, mask=rows_ok[:, None] & in_range[None, :])
