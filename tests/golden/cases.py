"""The cases: a recipe each, what it is there for, and how nearly braid must agree.

agree: "exact"  the same bits                    "ulp2"  two units in the last place of the largest number involved
       "mask"   like ulp2, given the stored masks "bf16"  no tensor farther from the float64 reference (root mean square) than mergekit's
"fails": mergekit itself stops with an exception, which is recorded.
"""

CASES = []


def case(name, method, covers, agree="exact", options=(), seed=None, dtype="float32", plan=False, unstable=(), **recipe):
    full = {"merge_method": method, **{k: v for k, v in recipe.items() if v is not None}}
    if dtype:
        full["dtype"] = dtype
    CASES.append({"name": name, "method": method, "covers": covers, "agree": agree, "options": list(options), "seed": seed,
                  "plan": plan, "unstable": list(unstable), "recipe": full})


def models(*specs, root="models/"):
    """("a", weight=1) as a list of models with parameters."""
    return [{"model": root + name, **({"parameters": p} if p else {})} for name, p in specs]


def weighted(names, weights, **per_model):
    out = []
    for i, (name, w) in enumerate(zip(names, weights)):
        p = {} if w is None else {"weight": w}
        p.update({k: v[i] for k, v in per_model.items()})
        out.append((name, p))
    return models(*out)


BASE = "models/base"
ABC, AB = ("a", "b", "c"), ("a", "b")
EDGE, EDGE2 = ("edge-a", "edge-b", "edge-c"), ("edge-a", "edge-b")
ONE = ("one-a", "one-b", "one-c")
BF = ("a-bf16", "b-bf16", "c-bf16")
FLOOD = ("flood-a", "flood-b", "flood-c")

# ---- linear ----
case("linear-2", "linear", "two models, weights that need rounding", "ulp2", models=weighted(AB, (0.3, 0.7)))
case("linear-3", "linear", "three models, weights that don't add to 1", "ulp2", models=weighted(ABC, (0.3, 0.5, 0.9)))
case("linear-powers", "linear", "weights that are powers of two: no product is rounded", models=weighted(ABC, (0.5, 0.25, 0.125)),
     parameters={"normalize": False})
case("linear-negative", "linear", "a negative weight", "ulp2", models=weighted(ABC, (1.5, -0.75, 0.5)))
case("linear-zero-sum", "linear", "weights that add to 0: the quotient isn't finite", models=weighted(AB, (0.5, -0.5)))
case("linear-plain", "linear", "normalize off", "ulp2", models=weighted(ABC, (0.3, 0.5, 0.9)), parameters={"normalize": False})
case("linear-single", "linear", "one model: itself, to the last rounding", "ulp2", models=weighted(("a",), (0.3,)))
case("linear-edge", "linear", "corner shapes, zeros of both signs, far magnitudes", "ulp2", models=weighted(EDGE, (0.6, 0.3, 0.8)))
case("linear-one", "linear", "one element in every tensor", "ulp2", models=weighted(ONE, (0.6, 0.3, 0.8)))
case("linear-sharded", "linear", "an input in three shards", "ulp2", models=weighted(("a-sharded", "b"), (0.3, 0.7)))
case("linear-base-listed", "linear", "a base_model that is one of the models", "ulp2", models=weighted(("base", "a"), (0.25, 0.75)),
     base_model=BASE)
case("linear-global-weight", "linear", "one weight for all, from the global parameters", "ulp2", models=weighted(AB, (None, None)),
     parameters={"weight": 0.5})
case("linear-mixed-types", "linear", "float32, bfloat16 and float16 inputs, cast to float32 on load", "ulp2",
     models=weighted(("a", "b-bf16", "a-f16"), (0.5, 0.3, 0.2)))
case("linear-promoted", "linear", "no dtype: float32 and bfloat16 are promoted", "ulp2", dtype=None,
     models=weighted(("a", "b-bf16"), (0.5, 0.3)))
case("linear-out-bf16", "linear", "out_dtype: one rounding at the store", "ulp2", out_dtype="bfloat16", models=weighted(AB, (0.3, 0.7)))
case("linear-bf16", "linear", "bfloat16 from end to end", "bf16", dtype="bfloat16", models=weighted(BF, (0.3, 0.5, 0.9)))
case("linear-f16", "linear", "float16 from end to end", "bf16", dtype="float16", models=weighted(("a-f16", "b-f16"), (0.3, 0.6)))
case("linear-tied", "linear", "heads tied to embeddings: none is written", "ulp2", models=weighted(("tied-base", "tied-a"), (0.3, 0.7)))
case("linear-tied-stored", "linear", "a tied head that one model stores is written", "ulp2",
     models=weighted(("tied-a", "tied-b"), (0.3, 0.7)))

# ---- task arithmetic and its family ----
def task(name, method, covers, names=ABC, weights=(0.7, 0.4, 0.5), base=None, agree="exact", per=None, seed=None, options=(),
         dtype="float32", plan=False, extra=None, **parameters):
    lambda_ = parameters.pop("lambda_", None)
    if lambda_ is not None:
        parameters["lambda"] = lambda_
    base = base or {"e": "models/edge-base", "o": "models/one-base", "f": "models/flood-base"}.get(names[0][0], BASE)
    if names is BF:
        base = "models/base-bf16"
    case(name, method, covers, agree, options, seed, dtype, plan, models=weighted(names, weights, **(per or {})), base_model=base,
         parameters=parameters or None, **(extra or {}))


task("task-arithmetic-2", "task_arithmetic", "two models", AB, (0.7, 0.4))
task("task-arithmetic-3", "task_arithmetic", "three models")
task("task-arithmetic-lambda", "task_arithmetic", "lambda", lambda_=0.6)
task("task-arithmetic-normalize", "task_arithmetic", "normalize on", normalize=True)
task("task-arithmetic-zero-sum", "task_arithmetic", "normalize with weights that add to 0: the divisor becomes 1", AB, (0.5, -0.5), normalize=True)
task("task-arithmetic-negative", "task_arithmetic", "negation: a negative weight", AB, (1.0, -0.8))
task("task-arithmetic-base-listed", "task_arithmetic", "the base among the models, its weight ignored", ("base", "a", "b"), (9, 0.7, 0.4))
task("task-arithmetic-edge", "task_arithmetic", "corner shapes, zeros of both signs", EDGE)
task("task-arithmetic-bf16", "task_arithmetic", "bfloat16", BF, agree="bf16", dtype="bfloat16")
task("task-arithmetic-density", "task_arithmetic", "density is known and ignored", AB, (0.7, 0.4), density=0.3)

task("ties-2", "ties", "two models", AB, (0.7, 0.4), density=0.5)
task("ties-3", "ties", "three models", density=0.5)
task("ties-sparse", "ties", "density 0.2", density=0.2)
task("ties-per-model", "ties", "densities that differ", per={"density": (0.3, 0.7, 1.0)})
task("ties-dense", "ties", "density 1: nothing is trimmed", density=1.0)
task("ties-empty", "ties", "density 0: the base", density=0.0)
task("ties-negative", "ties", "a negative weight turns a vote round", ABC, (1.0, -0.6, 0.5), density=0.6)
task("ties-zero-sum", "ties", "weights that add to 0", AB, (0.5, -0.5), density=0.6)
task("ties-plain", "ties", "normalize off, lambda 0.4", density=0.6, normalize=False, lambda_=0.4)
task("ties-rescale", "ties", "rescale: the trimmed delta gets its L1 length back", agree="ulp2", density=0.4, rescale=True)
task("ties-int8", "ties", "int8_mask changes nothing but memory", density=0.5, int8_mask=True)
task("ties-edge", "ties", "equal magnitudes at the threshold, exact cancellation, zero deltas", EDGE, density=0.5)
task("ties-boundary", "ties", "density * elements just below an integer", EDGE, density=0.29)
task("ties-boundary-above", "ties", "density * elements just above an integer", EDGE, density=0.7)
task("ties-one", "ties", "one element, density 0.5: it stays", ONE, density=0.5)
task("ties-bf16", "ties", "bfloat16", BF, agree="bf16", dtype="bfloat16", density=0.5)
task("ties-flood", "ties", "bfloat16 deltas of which nearly all are equal, in float32", FLOOD, density=0.5)
task("ties-flood-bf16", "ties", "the same in bfloat16, with weights whose sums are exact", FLOOD, (0.75, 0.5, 0.25), agree="bf16", dtype="bfloat16", density=0.5)

task("breadcrumbs-3", "breadcrumbs", "outliers and small deltas go", density=0.6, gamma=0.05)
task("breadcrumbs-default", "breadcrumbs", "the default gamma removes nothing from small tensors", density=0.6)
task("breadcrumbs-large-gamma", "breadcrumbs", "density + gamma above 1", density=0.8, gamma=0.4)
task("breadcrumbs-per-model", "breadcrumbs", "gamma and density per model", per={"density": (0.4, 0.6, 1.0), "gamma": (0.1, 0.02, 0.3)})
task("breadcrumbs-edge", "breadcrumbs", "ties at both thresholds", EDGE, density=0.5, gamma=0.1)
task("breadcrumbs-one", "breadcrumbs", "one element, density 0.5: all is dropped", ONE, density=0.5, gamma=0.1)
task("breadcrumbs-rescale", "breadcrumbs", "rescale", agree="ulp2", density=0.6, gamma=0.05, rescale=True)
task("breadcrumbs-bf16", "breadcrumbs", "bfloat16", BF, agree="bf16", dtype="bfloat16", density=0.6, gamma=0.05)
task("breadcrumbs-ties-3", "breadcrumbs_ties", "with sign election", density=0.6, gamma=0.05)
task("breadcrumbs-ties-edge", "breadcrumbs_ties", "corner cases with election", EDGE, density=0.5, gamma=0.1, normalize=True)
task("breadcrumbs-ties-bf16", "breadcrumbs_ties", "bfloat16", BF, agree="bf16", dtype="bfloat16", density=0.6, gamma=0.05)

for m in ("dare_linear", "dare_ties", "della_linear", "della"):
    n = m.replace("_", "-")
    task(f"{n}-2", m, "two models", AB, (0.7, 0.4), agree="mask", seed=11, density=0.6)
    task(f"{n}-3", m, "three models", agree="mask", seed=12, density=0.5)
    task(f"{n}-plain", m, "without the L1 rescaling: exact, given the masks", agree="mask", seed=13, density=0.4, rescale=False)
    task(f"{n}-per-model", m, "densities that differ, one of them 1: no draw", agree="mask", seed=14, per={"density": (0.3, 0.7, 1.0)})
    task(f"{n}-negative", m, "a negative weight, lambda, normalize", AB, (1.0, -0.6), agree="mask", seed=15, density=0.6, normalize=True, lambda_=1.2)
    task(f"{n}-bf16", m, "bfloat16", BF, agree="bf16", seed=17, dtype="bfloat16", density=0.5)
for m in ("dare_linear", "dare_ties"):
    n = m.replace("_", "-")
    task(f"{n}-edge", m, "corner shapes and zero deltas", EDGE, agree="mask", seed=16, density=0.5)
    task(f"{n}-one", m, "one element", ONE, agree="mask", seed=18, density=0.5)
task("della-epsilon", "della", "epsilon per model", agree="mask", seed=19, density=0.5, per={"epsilon": (0.1, 0.25, 0.4)})
task("della-edge", "della", "a row of one element has no rank", EDGE, agree="fails", seed=16, density=0.5)
task("della-one", "della", "one element", ONE, agree="fails", seed=16, density=0.5)
task("della-range", "della", "density + epsilon of 1 or more", agree="fails", seed=16, density=0.9)
task("della-empty", "della", "density 0: the base", agree="mask", seed=16, density=0.0)

# ---- interpolation on the sphere ----
def pair(name, covers, t, first="base", second="a", agree="ulp2", dtype="float32", plan=False):
    case(name, "slerp", covers, agree, dtype=dtype, plan=plan, base_model="models/" + first, models=models((first, {}), (second, {})),
         parameters={"t": t})


pair("slerp-third", "t = 0.3", 0.3)
pair("slerp-none", "t = 0", 0.0)
pair("slerp-all", "t = 1", 1.0)
pair("slerp-beyond", "t = 1.5: extrapolation", 1.5)
pair("slerp-gradient", "t along the layers; embeddings and norms get the first value", [0.2, 0.8], plan=True)
pair("slerp-filters", "filters with gradients, and a last setting for the rest",
     [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]}, {"value": 0.5}], plan=True)
pair("slerp-angle", "opposite, parallel, zero and right-angled pairs", 0.4, "angle-base", "angle-other")
pair("slerp-edge", "corner shapes", 0.4, "edge-base", "edge-a")
pair("slerp-one", "one element: parallel or opposite", 0.4, "one-base", "one-a")
pair("slerp-bf16", "bfloat16", 0.3, "base-bf16", "a-bf16", "bf16", "bfloat16")
case("slerp-base-second", "slerp", "the base is listed second: it is still the start", "ulp2", base_model=BASE, models=models(("a", {}), ("base", {})),
     parameters={"t": 0.3})


def spherical(name, method, covers, names, weights=None, agree="ulp2", base=None, dtype="float32", unstable=(), **parameters):
    listed = weighted(names, weights) if weights else models(*((n, {}) for n in names))
    case(name, method, covers, agree, dtype=dtype, unstable=unstable, base_model=base, models=listed, parameters=parameters or None)


ANGLE = ("angle-base", "angle-other")
spherical("nuslerp-2", "nuslerp", "flattened", AB, (0.3, 0.5))
spherical("nuslerp-base", "nuslerp", "of deltas", AB, (0.3, 0.5), base=BASE)
spherical("nuslerp-rows", "nuslerp", "per row", AB, (0.3, 0.5), nuslerp_flatten=False)
spherical("nuslerp-columns", "nuslerp", "nuslerp_row_wise: per column", AB, (0.3, 0.5), nuslerp_flatten=False, nuslerp_row_wise=True)
spherical("nuslerp-base-rows", "nuslerp", "of deltas, per row", AB, (0.3, 0.5), base=BASE, nuslerp_flatten=False)
spherical("nuslerp-zero-sum", "nuslerp", "weights that add to 0: half way", AB, (0.5, -0.5))
spherical("nuslerp-angle", "nuslerp", "opposite, parallel and zero pairs", ANGLE, (0.3, 0.5))
spherical("nuslerp-angle-rows", "nuslerp", "the same, per row", ANGLE, (0.3, 0.5), nuslerp_flatten=False,
          unstable=["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.o_proj.weight"])
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
spherical("nearswap-edge", "nearswap", "equal elements, far elements", ("edge-a",), agree="exact", base="models/edge-base", t=0.01)
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

# ---- the language ----
def source(model, first, last, **parameters):
    return {"model": "models/" + model, "layer_range": [first, last], **({"parameters": parameters} if parameters else {})}


case("passthrough-stack", "passthrough", "layers of two models on top of each other, one twice", plan=True,
     slices=[{"sources": [source("a", 0, 2)]}, {"sources": [source("b", 0, 1)]}, {"sources": [source("a", 1, 2)]}], options=["--clone-tensors"])
case("passthrough-scale", "passthrough", "scale by filter: the second copy adds nothing to the residual stream", plan=True,
     slices=[{"sources": [source("a", 0, 2)]},
             {"sources": [source("a", 1, 2, scale=[{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.5}, {"value": 1.0}])]}],
     options=["--clone-tensors"])
case("slices-linear", "linear", "slices with weights of their own at each level", "ulp2", plan=True,
     slices=[{"sources": [source("a", 0, 1, weight=0.3), source("b", 1, 2)]},
             {"sources": [source("a", 1, 2), source("c", 0, 1, weight=[{"filter": "mlp", "value": 0.9}])], "parameters": {"weight": 0.4}}],
     parameters={"weight": 0.6})
case("slices-slerp", "slerp", "a gradient starts anew in each slice", "ulp2", plan=True, base_model=BASE,
     slices=[{"sources": [source("base", 0, 2), source("a", 0, 2)]}, {"sources": [source("base", 0, 1), source("a", 1, 2)]}],
     parameters={"t": [{"filter": "self_attn", "value": [0.1, 0.9]}, {"filter": "mlp", "value": [0.9, 0.1]}, {"value": 0.5}]})
case("slices-base", "task_arithmetic", "a slice with a base model of its own", plan=True, base_model=BASE,
     slices=[{"sources": [source("base", 0, 1), source("a", 0, 1, weight=0.7)]},
             {"sources": [source("c", 0, 1), source("b", 1, 2, weight=0.4)], "base_model": "models/c"}])
case("modules-models", "linear", "modules, with parameters of the module", "ulp2", plan=True,
     modules={"default": {"models": weighted(AB, (None, 0.7)), "parameters": {"weight": 0.3}}}, parameters={"weight": 9.0, "normalize": True})
case("modules-slices", "passthrough", "modules with slices", plan=True,
     modules={"default": {"slices": [{"sources": [source("a", 0, 1)]}, {"sources": [source("b", 1, 2)]}]}})
case("parameters-order", "ties", "filters fall through to the next level; the first match wins", plan=True, base_model=BASE,
     models=models(("a", {"weight": [{"filter": "mlp", "value": [0.2, 0.9]}, {"filter": "mlp.up_proj", "value": 5.0}]}),
                   ("b", {"weight": 0.5, "density": [{"filter": "self_attn", "value": 0.8}]}), ("c", {"weight": [1.0, 0.0]})),
     parameters={"weight": 0.3, "density": [{"filter": "embed", "value": 1.0}, {"filter": "*", "value": [0.9, 0.4]}], "lambda": [0.5, 1.0],
                 "normalize": [True, False]})
case("parameters-unknown", "linear", "a parameter that no method knows is ignored", "ulp2", models=weighted(AB, (0.3, 0.7)),
     parameters={"wieght": 3.0, "density": 0.5})
case("keys-unknown", "linear", "a key that nobody knows is ignored", "ulp2", models=weighted(AB, (0.3, 0.7)), base_modle=BASE)
case("weights-text", "linear", "numbers written as 1e-1, which YAML takes for text", "ulp2", models=weighted(AB, ("1e-1", "9e-1")))
for name, covers, body in (
    ("fails-no-weight", "a required parameter that nobody sets", {"models": weighted(AB, (0.3, None))}),
    ("fails-two-inputs", "models and slices at once", {"models": weighted(AB, (1, 1)), "slices": [{"sources": [source("a", 0, 2)]}]}),
    ("fails-no-inputs", "neither models nor slices nor modules", {}),
    ("fails-lengths", "sources of one slice with different numbers of layers", {"slices": [{"sources": [source("a", 0, 2, weight=1), source("b", 0, 1, weight=1)]}]}),
    ("fails-layer", "a layer that isn't there", {"slices": [{"sources": [source("a", 0, 3, weight=1)]}]}),
    ("fails-vocabulary", "embeddings with different numbers of rows", {"models": weighted(("a", "b-vocab43"), (0.3, 0.7))}),
    ("fails-tokenizer-twice", "tokenizer and tokenizer_source", {"models": weighted(AB, (1, 1)), "tokenizer_source": "base", "tokenizer": {"source": "base"}}),
    ("fails-two-ats", "two revisions", {"models": models(("a@x@y", {"weight": 1}))}),
    ("fails-dtype", "a type that isn't one", {"models": weighted(AB, (1, 1)), "out_dtype": "float8"}),
    ("fails-shapes", "matrices of different shapes", {"models": weighted(("a", "edge-a"), (0.3, 0.7))}),
):
    case(name, "linear", covers, "fails", **body)
case("fails-method", "linaer", "a method that isn't one", "fails", models=weighted(AB, (1, 1)))
case("fails-no-base", "ties", "no base model", "fails", models=weighted(AB, (1, 1)))
case("fails-slerp-three", "slerp", "three models", "fails", models=models(("a", {}), ("b", {}), ("c", {})), base_model="models/a", parameters={"t": 0.5})
case("truncated-vocabulary", "linear", "embeddings cut to the smaller vocabulary on request", "ulp2", options=["--unsafe-truncate-embeddings"],
     models=weighted(("a", "b-vocab43"), (0.3, 0.7)))

# ---- adapters ----
case("lora-linear", "linear", "a model with a LoRA adapter", "ulp2", models=weighted(("base+models/lora", "a"), (0.5, 0.5)))
case("lora-task", "task_arithmetic", "two adapters of one base, one of them rank-stabilised with patterns", "ulp2", base_model=BASE,
     models=weighted(("base+models/lora", "base+models/lora-rs"), (0.7, 0.4)))

# ---- vocabularies ----
TOK = ("tok-base", "tok-a", "tok-b")


def vocabulary(name, covers, names=TOK, base="models/tok-base", method="linear", **keys):
    case(name, method, covers, "ulp2", base_model=base, models=weighted(names, (0.2, 0.3, 0.5)), **keys)


vocabulary("tokenizer-union", "the union of three vocabularies", tokenizer={"source": "union"})
vocabulary("tokenizer-base", "the base's vocabulary", tokenizer={"source": "base"})
vocabulary("tokenizer-model", "one model's vocabulary", tokenizer={"source": "models/tok-b"})
vocabulary("tokenizer-legacy", "tokenizer_source", tokenizer_source="union")
vocabulary("tokenizer-padded", "rows to a multiple of 16: the mean row", tokenizer={"source": "union", "pad_to_multiple_of": 16})
vocabulary("tokenizer-no-base", "no base: shared tokens are averaged", names=("tok-a", "tok-b"), base=None, tokenizer={"source": "models/tok-a"})
vocabulary("tokenizer-tokens", "sources for single tokens", tokenizer={
    "source": "union",
    "tokens": {
        "alpha": {"source": "models/tok-a", "force": True},
        "gamma": {"source": {"kind": "zero"}},
        "beta": {"source": {"kind": "model_token", "model": "models/tok-b", "token": "gamma"}, "force": True},
        "<new>": {"source": {"kind": "model_token", "model": "models/tok-a", "token_id": 5}},
        "w3": {"source": "models/tok-a", "force": True},
    },
})
