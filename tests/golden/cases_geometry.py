"""Interpolation on the sphere, and methods that compare a model with its base."""

from case_builder import ABC, AB, BASE, BF, EDGE, ONE, case, models, weighted


# ---- interpolation on the sphere ----
def pair(name, covers, t, first="base", second="a", agree="ulp2", dtype="float32", plan=False):
    case(
        name,
        "slerp",
        covers,
        agree,
        dtype=dtype,
        plan=plan,
        base_model="models/" + first,
        models=models((first, {}), (second, {})),
        parameters={"t": t},
    )


pair("slerp-third", "t = 0.3", 0.3)
pair("slerp-none", "t = 0", 0.0)
pair("slerp-all", "t = 1", 1.0)
pair("slerp-beyond", "t = 1.5: extrapolation", 1.5)
pair("slerp-gradient", "t along the layers; embeddings and norms get the first value", [0.2, 0.8], plan=True)
pair(
    "slerp-filters",
    "filters with gradients, and a last setting for the rest",
    [
        {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
        {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
        {"value": 0.5},
    ],
    plan=True,
)
pair("slerp-angle", "opposite, parallel, zero and right-angled pairs", 0.4, "angle-base", "angle-other")
pair("slerp-edge", "corner shapes", 0.4, "edge-base", "edge-a")
pair("slerp-one", "one element: parallel or opposite", 0.4, "one-base", "one-a")
pair("slerp-bf16", "bfloat16", 0.3, "base-bf16", "a-bf16", "bf16", "bfloat16")
case(
    "slerp-base-second",
    "slerp",
    "the base is listed second: it is still the start",
    "ulp2",
    base_model=BASE,
    models=models(("a", {}), ("base", {})),
    parameters={"t": 0.3},
)


def spherical(name, method, covers, names, weights=None, agree="ulp2", base=None, dtype="float32", unstable=(), **parameters):
    listed = weighted(names, weights) if weights else models(*((n, {}) for n in names))
    case(
        name,
        method,
        covers,
        agree,
        dtype=dtype,
        unstable=unstable,
        base_model=base,
        models=listed,
        parameters=parameters or None,
    )


ANGLE = ("angle-base", "angle-other")
spherical("nuslerp-2", "nuslerp", "flattened", AB, (0.3, 0.5))
spherical("nuslerp-base", "nuslerp", "of deltas", AB, (0.3, 0.5), base=BASE)
spherical("nuslerp-rows", "nuslerp", "per row", AB, (0.3, 0.5), nuslerp_flatten=False)
spherical(
    "nuslerp-columns", "nuslerp", "nuslerp_row_wise: per column", AB, (0.3, 0.5), nuslerp_flatten=False, nuslerp_row_wise=True
)
spherical("nuslerp-base-rows", "nuslerp", "of deltas, per row", AB, (0.3, 0.5), base=BASE, nuslerp_flatten=False)
spherical("nuslerp-zero-sum", "nuslerp", "weights that add to 0: half way", AB, (0.5, -0.5))
spherical("nuslerp-angle", "nuslerp", "opposite, parallel and zero pairs", ANGLE, (0.3, 0.5))
spherical(
    "nuslerp-angle-rows",
    "nuslerp",
    "the same, per row",
    ANGLE,
    (0.3, 0.5),
    nuslerp_flatten=False,
    unstable=["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.o_proj.weight"],
)
spherical("nuslerp-bf16", "nuslerp", "bfloat16", BF[:2], (0.3, 0.5), "bf16", dtype="bfloat16")
spherical("multislerp-2", "multislerp", "two models", AB, (0.3, 0.5))
spherical("multislerp-3", "multislerp", "three models", ABC, (0.3, 0.5, 0.9))
spherical("multislerp-base", "multislerp", "of deltas", ABC, (0.3, 0.5, 0.9), base=BASE)
spherical("multislerp-plain", "multislerp", "weights as they are", ABC, (0.3, 0.5, 0.9), normalize_weights=False)
spherical("multislerp-angle", "multislerp", "opposite, parallel and zero pairs", ANGLE, (0.3, 0.5))
spherical("multislerp-single", "multislerp", "one model beside the base: itself", ("a",), (0.3,), "exact", base=BASE)
spherical("multislerp-bf16", "multislerp", "bfloat16", BF, (0.3, 0.5, 0.9), "bf16", dtype="bfloat16")
spherical("karcher-2", "karcher", "two models", AB)
spherical("karcher-3", "karcher", "three models", ABC)
spherical("karcher-base", "karcher", "a base_model is one more point", AB, base=BASE)
spherical("karcher-one-step", "karcher", "a single iteration", ABC, max_iter=1)
spherical("karcher-angle", "karcher", "parallel and zero tensors", ("angle-other", "angle-origin"))
spherical("karcher-edge", "karcher", "corner shapes", EDGE)
spherical("karcher-bf16", "karcher", "bfloat16", BF, agree="bf16", dtype="bfloat16")

# ---- methods with a base ----
spherical("model-stock-2", "model_stock", "two models", AB, base=BASE)
spherical("model-stock-3", "model_stock", "three models", ABC, base=BASE)
spherical("model-stock-rows", "model_stock", "filter_wise: per row", ABC, base=BASE, filter_wise=True)
spherical("model-stock-edge", "model_stock", "zero deltas, opposite deltas, one row", EDGE, base="models/edge-base")
spherical("model-stock-bf16", "model_stock", "bfloat16", BF, agree="bf16", base="models/base-bf16", dtype="bfloat16")
spherical("model-stock-too-few", "model_stock", "one model and the base", ("a",), agree="fails", base=BASE)
spherical("sce-1", "sce", "one model", ("a",), base=BASE)
spherical("sce-2", "sce", "two models", AB, base=BASE)
spherical("sce-3", "sce", "three models", ABC, base=BASE)
spherical("sce-topk", "sce", "the half of the elements where models differ most", ABC, base=BASE, select_topk=0.5)
spherical("sce-none", "sce", "select_topk 0: the base", ABC, base=BASE, select_topk=0.0)
spherical("sce-one", "sce", "one element", ONE, base="models/one-base", select_topk=0.5)
spherical("sce-bf16", "sce", "bfloat16", BF, agree="bf16", base="models/base-bf16", dtype="bfloat16")
spherical("nearswap-near", "nearswap", "t of the size of the differences", ("a",), agree="exact", base=BASE, t=0.004)
spherical(
    "nearswap-edge", "nearswap", "equal elements, far elements", ("edge-a",), agree="exact", base="models/edge-base", t=0.01
)
spherical("nearswap-zero", "nearswap", "t = 0: the base", ("a",), agree="exact", base=BASE, t=0.0)
spherical("nearswap-bf16", "nearswap", "bfloat16", BF[:1], agree="bf16", base="models/base-bf16", dtype="bfloat16", t=0.004)
spherical("arcee-fusion-2", "arcee_fusion", "two models", ("a",), agree="ulp2", base=BASE)
spherical("arcee-fusion-b", "arcee_fusion", "another pair", ("c",), agree="ulp2", base="models/b")
spherical("ram-1", "ram", "one model", ("a",), agree="exact", base=BASE)
spherical("ram-3", "ram", "three models", ABC, agree="exact", base=BASE)
spherical("ram-epsilon", "ram", "an epsilon that cuts", ABC, agree="exact", base=BASE, epsilon=0.004)
spherical("ram-edge", "ram", "corner shapes", EDGE, agree="exact", base="models/edge-base")
spherical("ram-bf16", "ram", "bfloat16", BF, agree="bf16", base="models/base-bf16", dtype="bfloat16")
spherical("ramplus-3", "ramplus_tl", "three models", ABC, agree="ulp2", base=BASE)
spherical("ramplus-strong", "ramplus_tl", "r, alpha and epsilon", ABC, agree="ulp2", base=BASE, r=0.7, alpha=0.9, epsilon=0.006)
spherical("ramplus-one", "ramplus_tl", "one element", ONE, agree="ulp2", base="models/one-base")
