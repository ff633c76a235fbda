"""Every merge method by the plainest code, in one floating type.

merge(method, inputs, ...) in float64 is the exact answer that results are measured against; in float32, with one rounding
an operation and sums from the left, it is what a bit-exact implementation computes.
"""

import itertools

import numpy as np


def merge(method, inputs, base, shared, per_input, masks, F):
    """inputs: list of arrays; base: position of the base model or None; shared: name -> value; per_input: name -> list
    with a value (or None) for each input; masks: list of arrays or None; F: np.float32 or np.float64."""
    with np.errstate(all="ignore"):
        xs = [np.asarray(x).astype(F) for x in inputs]
        others = [i for i in range(len(xs)) if i != base]
        get = lambda name: [per_input[name][i] for i in others]
        if method in TASK_ARITHMETIC:
            return task_arithmetic(method, xs, base, others, shared, per_input, masks, F)
        if method == "linear":
            return linear(xs, per_input["weight"], shared["normalize"], F)
        if method == "slerp":
            return slerp(xs[base], xs[others[0]], F(shared["t"]), F)
        if method == "nuslerp":
            b = xs[base] if base is not None else None
            return nuslerp([xs[i] for i in others], b, get("weight"), shared, F)
        if method == "multislerp":
            b = xs[base] if base is not None else None
            return multislerp([xs[i] for i in others], b, get("weight"), shared, F)
        if method == "karcher":
            return karcher(xs, shared, F)
        if method == "model_stock":
            return model_stock(xs[base], [xs[i] for i in others], shared["filter_wise"], F)
        if method == "sce":
            return sce(xs[base], [xs[i] for i in others], shared["select_topk"], F)
        if method == "nearswap":
            a, b = xs[base], xs[others[0]]
            w = np.clip(F(shared["t"]) * (F(1) / np.maximum(np.abs(a - b), F(1e-6))), F(0), F(1))
            return w * b + (F(1) - w) * a
        if method == "arcee_fusion":
            return arcee_fusion(xs[base], xs[others[0]], F)
        if method in ("ram", "ramplus_tl"):
            return ram(method, xs[base], [xs[i] for i in others], shared, F)
        if method == "passthrough":
            scale = per_input["scale"][0]
            return xs[0] if scale is None else xs[0] * F(scale)
    raise KeyError(method)


def left_sum(arrays, F):
    total = np.zeros_like(arrays[0], dtype=F)
    for a in arrays:
        total = total + a
    return total


def linear(xs, weights, normalize, F):
    w = [F(v) for v in weights]
    r = np.zeros_like(xs[0])
    for x, v in zip(xs, w):  # fused: the product isn't rounded before it is added (exact in float64, but for a rare tie)
        r = (x.astype(np.float64) * np.float64(v) + r).astype(F)
    return r / left_sum([np.asarray(v) for v in w], F) if normalize else r


# method: (sparsifier, election)
TASK_ARITHMETIC = {
    "task_arithmetic": (None, False),
    "ties": ("magnitude", True),
    "dare_linear": ("mask", False),
    "dare_ties": ("mask", True),
    "breadcrumbs": ("outliers", False),
    "breadcrumbs_ties": ("outliers", True),
    "della_linear": ("mask", False),
    "della": ("mask", True),
}


def keep_mask(kind, d, density, gamma, mask):
    """1 where an element of the delta survives. Equal magnitudes: the lower index counts as larger in the trim, and as
    smaller where outliers are removed."""
    if density >= 1:
        return None
    if mask is not None:
        return np.asarray(mask).astype(bool).reshape(d.shape)
    n = d.size
    flat = np.abs(d).reshape(-1)
    keep = np.zeros(n, bool)
    if kind == "magnitude":
        if density > 0 and n:
            keep[np.argsort(-flat, kind="stable")[: max(1, int(density * n))]] = True
    else:
        kept = int(density * n)
        first = max(0, n - kept - int(gamma * n))
        keep[np.argsort(flat, kind="stable")[first : first + kept]] = True
    return keep.reshape(d.shape)


def task_arithmetic(method, xs, base, others, shared, per_input, masks, F):
    kind, election = TASK_ARITHMETIC[method]
    b = xs[base]
    if not others:
        return b
    weights, deltas = [], []
    for i in others:
        d = xs[i] - b
        if kind is not None:
            gamma = per_input["gamma"][i] if "gamma" in per_input else 0
            keep = keep_mask(kind, d, per_input["density"][i], gamma, masks[i])
            if keep is not None:
                kept = d * keep.astype(F)
                if shared["rescale"] and per_input["density"][i] > 0:
                    before, after = np.abs(d).sum(dtype=F), np.abs(kept).sum(dtype=F)
                    if before >= 1e-7 and after >= 1e-7:
                        kept = kept * (before / after)
                d = kept
        weights.append(F(per_input["weight"][i]))
        deltas.append(d * F(per_input["weight"][i]))
    if election:
        plus = left_sum(deltas, F) >= 0
        agree = [np.sign(d) == np.where(plus, 1, -1) for d in deltas]
        mix = left_sum([d * m.astype(F) for d, m in zip(deltas, agree)], F)
        divisor = left_sum([w * m.astype(F) for w, m in zip(weights, agree)], F)
        divisor[divisor == 0] = 1
    else:
        mix = left_sum(deltas, F)
        divisor = left_sum([np.asarray(w) for w in weights], F)
        divisor = np.where(np.abs(divisor) < F(1e-8), F(1), divisor)
    if shared["normalize"]:
        mix = mix / divisor
    if shared["lambda"] != 1:
        mix = mix * F(shared["lambda"])
    return b + mix


def norm(x):
    return np.sqrt((x * x).sum(dtype=x.dtype))


def slerp(a, b, t, F):
    na, nb = norm(a), norm(b)
    ua, ub = a / (na if na > 1e-8 else F(1)), b / (nb if nb > 1e-8 else F(1))
    dot = np.clip((ua * ub).sum(dtype=F), -1, 1)
    if abs(dot) > F(0.9995):
        return (F(1) - t) * a + t * b
    theta = np.arccos(dot)
    return np.sin((F(1) - t) * theta) / np.sin(theta) * a + np.sin(t * theta) / np.sin(theta) * b


def nuslerp(xs, base, weights, shared, F):
    total = sum(weights)
    t = F(0.5 if abs(total) < 1e-6 else weights[1] / total)
    a, b = (x - base if base is not None else x for x in xs)
    shape = a.shape
    columns = not shared["nuslerp_flatten"] and shared["nuslerp_row_wise"] and a.ndim > 1
    if shared["nuslerp_flatten"]:
        a, b = a.reshape(1, -1), b.reshape(1, -1)
    if columns:
        a, b = a.T, b.T
    length = lambda v: np.maximum(np.sqrt((v * v).sum(-1, keepdims=True, dtype=F)), F(1e-7))
    c = np.clip((a / length(a) * (b / length(b))).sum(-1, keepdims=True, dtype=F), -1, 1)
    parallel = 1 - c * c <= 1e-16
    theta = np.arccos(np.where(parallel, F(0), c))
    curved = (np.sin((F(1) - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)
    r = np.where(parallel, (F(1) - t) * a + t * b, curved)
    r = (r.T if columns else r).reshape(shape)
    return base + r if base is not None else r


def multislerp(xs, base, weights, shared, F):
    if len(xs) == 1:
        return xs[0]
    eps = shared["eps"]
    ds = [x - base if base is not None else x for x in xs]
    w = [F(v) for v in weights]
    if shared["normalize_weights"]:
        total = left_sum([np.asarray(v) for v in w], F)
        w = [v / total for v in w]
    lengths = [norm(d) for d in ds]
    units = [d / (n + F(eps)) for d, n in zip(ds, lengths)]
    mean = left_sum([u * v for u, v in zip(units, w)], F)
    if norm(mean) < eps:
        r = left_sum([d * v for d, v in zip(ds, w)], F)
    else:
        mean = mean / norm(mean)
        tangent = left_sum([(u - (u * mean).sum(dtype=F) * mean) * v for u, v in zip(units, w)], F)
        n = norm(tangent) + F(eps)
        r = (mean * np.cos(n) + tangent * (np.sin(n) / n)) * left_sum([n_ * v for n_, v in zip(lengths, w)], F)
    return base + r if base is not None else r


def karcher(xs, shared, F):
    if len(xs) == 1:
        return xs[0]
    tol, alpha = shared["tol"], F(1 / len(xs))
    lengths = [norm(x) for x in xs]
    units = [x / n for x, n in zip(xs, lengths) if n > tol]
    if not units:
        return np.zeros_like(xs[0])
    share = F(1 / len(units))
    mean = left_sum([share * u for u in units], F)
    mean = units[0].copy() if norm(mean) < tol else mean / norm(mean)
    for _ in range(shared["max_iter"]):
        tangent = np.zeros_like(mean)
        for u in units:
            dot = np.clip((mean * u).sum(dtype=F), -1, 1)
            theta = np.arccos(dot)
            if theta >= tol:
                tangent = tangent + share * (theta / np.sin(theta)) * (u - dot * mean)
        n = norm(tangent)
        if n < tol:
            break
        mean = np.cos(n) * mean + np.sin(n) * (tangent / n)
        if norm(mean) > tol:
            mean = mean / norm(mean)
    return left_sum([alpha * n for n in lengths], F) * mean


def model_stock(base, xs, filter_wise, F):
    shape = base.shape
    rows = (1, -1) if not filter_wise or base.ndim == 1 else (-1, base.shape[-1])
    b, xs = base.reshape(rows), [x.reshape(rows) for x in xs]
    ds = [x - b for x in xs]
    length = lambda v: np.sqrt((v * v).sum(-1, dtype=F))
    cosines = [
        np.clip((d * e).sum(-1, dtype=F) / np.maximum(length(d) * length(e), F(1e-6)), -1, 1)
        for d, e in itertools.combinations(ds, 2)
    ]
    c = np.stack(cosines).mean(0, dtype=F)[:, None]
    n = F(len(xs))
    below = F(1) + (n - F(1)) * c
    t = np.where(np.abs(below) < 1e-6, F(0), n * c / np.where(np.abs(below) < 1e-6, F(1), below))
    return (t * (left_sum(xs, F) / n) + (F(1) - t) * b).reshape(shape)


def sce(base, xs, topk, F):
    if not xs:
        return base
    ds = np.stack([x - base for x in xs])
    if topk < 1:
        variance = ds.var(0, dtype=F)
        k = int(np.float32(np.count_nonzero(variance)) * np.float32(topk)) if topk > 0 else 0
        keep = np.zeros(variance.size, bool)
        keep[np.argsort(-variance.reshape(-1), kind="stable")[:k]] = True
        ds = ds * keep.reshape(base.shape).astype(F)
    plus = left_sum(list(ds), F) >= 0
    agree = [np.sign(d) == np.where(plus, 1, -1) for d in ds]
    w = [np.mean(d * d, dtype=F) for d in ds]
    total = F(sum(w))
    w = [F(1) / F(len(w)) for _ in w] if abs(total) < 1e-6 else [v / total for v in w]
    above = left_sum([d * v * m.astype(F) for d, v, m in zip(ds, w, agree)], F)
    below = left_sum([v * m.astype(F) for v, m in zip(w, agree)], F)
    return base + above / np.maximum(below, F(1e-6))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def arcee_fusion(base, x, F):
    p, q = softmax(x) + F(1e-8), softmax(base) + F(1e-8)
    importance = np.abs(x - base) * (p * np.log(p / q)).sum(-1, keepdims=True, dtype=F)
    ordered = np.sort(importance.reshape(-1))
    q1, median, q3 = (ordered[int(np.float32(q) * np.float32(ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    return base + (x - base) * (importance >= median + F(1.5) * (q3 - q1)).astype(F)


def ram(method, base, xs, shared, F):
    if not xs:
        return base
    ds = [x - base for x in xs]
    nonzero = [np.abs(d) > F(shared["epsilon"]) for d in ds]
    count = sum(m.astype(np.int64) for m in nonzero)
    terms = []
    for d, m in zip(ds, nonzero):
        z = d * m.astype(F)
        alone = z * (count == 1).astype(F)
        if method == "ramplus_tl":
            ratio = (m & (count > 1)).sum() / max((m & (count == 1)).sum(), shared["epsilon"])
            alone = alone * F(1 + shared["r"] * min(max(ratio, 0), shared["alpha"]))
        terms.append(alone + z * (count > 1).astype(F) / np.maximum(count, 1).astype(F))
    return base + left_sum(terms, F)
