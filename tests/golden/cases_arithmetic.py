"""Linear merges, and task arithmetic with its family."""

from case_builder import ABC, AB, BASE, BF, EDGE, FLOOD, ONE, case, models, weighted

# ---- linear ----
case("linear-2", "linear", "two models, weights that need rounding", "ulp2", models=weighted(AB, (0.3, 0.7)))
case("linear-3", "linear", "three models, weights that don't add to 1", "ulp2", models=weighted(ABC, (0.3, 0.5, 0.9)))
case(
    "linear-powers",
    "linear",
    "weights that are powers of two: no product is rounded",
    models=weighted(ABC, (0.5, 0.25, 0.125)),
    parameters={"normalize": False},
)
case("linear-negative", "linear", "a negative weight", "ulp2", models=weighted(ABC, (1.5, -0.75, 0.5)))
case("linear-zero-sum", "linear", "weights that add to 0: the quotient isn't finite", models=weighted(AB, (0.5, -0.5)))
case("linear-plain", "linear", "normalize off", "ulp2", models=weighted(ABC, (0.3, 0.5, 0.9)), parameters={"normalize": False})
case("linear-single", "linear", "one model: itself, to the last rounding", "ulp2", models=weighted(("a",), (0.3,)))
case(
    "linear-edge",
    "linear",
    "corner shapes, zeros of both signs, far magnitudes",
    "ulp2",
    models=weighted(EDGE, (0.6, 0.3, 0.8)),
)
case("linear-one", "linear", "one element in every tensor", "ulp2", models=weighted(ONE, (0.6, 0.3, 0.8)))
case("linear-sharded", "linear", "an input in three shards", "ulp2", models=weighted(("a-sharded", "b"), (0.3, 0.7)))
case(
    "linear-base-listed",
    "linear",
    "a base_model that is one of the models",
    "ulp2",
    models=weighted(("base", "a"), (0.25, 0.75)),
    base_model=BASE,
)
case(
    "linear-global-weight",
    "linear",
    "one weight for all, from the global parameters",
    "ulp2",
    models=weighted(AB, (None, None)),
    parameters={"weight": 0.5},
)
case(
    "linear-mixed-types",
    "linear",
    "float32, bfloat16 and float16 inputs, cast to float32 on load",
    "ulp2",
    models=weighted(("a", "b-bf16", "a-f16"), (0.5, 0.3, 0.2)),
)
case(
    "linear-promoted",
    "linear",
    "no dtype: float32 and bfloat16 are promoted",
    "ulp2",
    dtype=None,
    models=weighted(("a", "b-bf16"), (0.5, 0.3)),
)
case(
    "linear-out-bf16",
    "linear",
    "out_dtype: one rounding at the store",
    "ulp2",
    out_dtype="bfloat16",
    models=weighted(AB, (0.3, 0.7)),
)
case("linear-bf16", "linear", "bfloat16 from end to end", "bf16", dtype="bfloat16", models=weighted(BF, (0.3, 0.5, 0.9)))
case(
    "linear-f16", "linear", "float16 from end to end", "bf16", dtype="float16", models=weighted(("a-f16", "b-f16"), (0.3, 0.6))
)
case(
    "linear-tied",
    "linear",
    "heads tied to embeddings: none is written",
    "ulp2",
    models=weighted(("tied-base", "tied-a"), (0.3, 0.7)),
)
case(
    "linear-tied-stored",
    "linear",
    "a tied head that one model stores is written",
    "ulp2",
    models=weighted(("tied-a", "tied-b"), (0.3, 0.7)),
)


# ---- task arithmetic and its family ----
def task(
    name,
    method,
    covers,
    names=ABC,
    weights=(0.7, 0.4, 0.5),
    base=None,
    agree="exact",
    per=None,
    seed=None,
    options=(),
    dtype="float32",
    plan=False,
    extra=None,
    **parameters,
):
    lambda_ = parameters.pop("lambda_", None)
    if lambda_ is not None:
        parameters["lambda"] = lambda_
    base = base or {"e": "models/edge-base", "o": "models/one-base", "f": "models/flood-base"}.get(names[0][0], BASE)
    if names is BF:
        base = "models/base-bf16"
    case(
        name,
        method,
        covers,
        agree,
        options,
        seed,
        dtype,
        plan,
        models=weighted(names, weights, **(per or {})),
        base_model=base,
        parameters=parameters or None,
        **(extra or {}),
    )


task("task-arithmetic-2", "task_arithmetic", "two models", AB, (0.7, 0.4))
task("task-arithmetic-3", "task_arithmetic", "three models")
task("task-arithmetic-lambda", "task_arithmetic", "lambda", lambda_=0.6)
task("task-arithmetic-normalize", "task_arithmetic", "normalize on", normalize=True)
task(
    "task-arithmetic-zero-sum",
    "task_arithmetic",
    "normalize with weights that add to 0: the divisor becomes 1",
    AB,
    (0.5, -0.5),
    normalize=True,
)
task("task-arithmetic-negative", "task_arithmetic", "negation: a negative weight", AB, (1.0, -0.8))
task(
    "task-arithmetic-base-listed",
    "task_arithmetic",
    "the base among the models, its weight ignored",
    ("base", "a", "b"),
    (9, 0.7, 0.4),
)
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
task(
    "ties-flood-bf16",
    "ties",
    "the same in bfloat16, with weights whose sums are exact",
    FLOOD,
    (0.75, 0.5, 0.25),
    agree="bf16",
    dtype="bfloat16",
    density=0.5,
)

task("breadcrumbs-3", "breadcrumbs", "outliers and small deltas go", density=0.6, gamma=0.05)
task("breadcrumbs-default", "breadcrumbs", "the default gamma removes nothing from small tensors", density=0.6)
task("breadcrumbs-large-gamma", "breadcrumbs", "density + gamma above 1", density=0.8, gamma=0.4)
task(
    "breadcrumbs-per-model",
    "breadcrumbs",
    "gamma and density per model",
    per={"density": (0.4, 0.6, 1.0), "gamma": (0.1, 0.02, 0.3)},
)
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
    task(
        f"{n}-per-model",
        m,
        "densities that differ, one of them 1: no draw",
        agree="mask",
        seed=14,
        per={"density": (0.3, 0.7, 1.0)},
    )
    task(
        f"{n}-negative",
        m,
        "a negative weight, lambda, normalize",
        AB,
        (1.0, -0.6),
        agree="mask",
        seed=15,
        density=0.6,
        normalize=True,
        lambda_=1.2,
    )
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
