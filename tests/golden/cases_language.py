"""What recipes can say: slices, modules, levels of parameters, vocabularies; and what mergekit stops at."""

from case_builder import AB, BASE, case, models, weighted


# ---- the language ----
def source(model, first, last, **parameters):
    return {"model": "models/" + model, "layer_range": [first, last], **({"parameters": parameters} if parameters else {})}


case(
    "passthrough-stack",
    "passthrough",
    "layers of two models on top of each other, one twice",
    plan=True,
    slices=[{"sources": [source("a", 0, 2)]}, {"sources": [source("b", 0, 1)]}, {"sources": [source("a", 1, 2)]}],
    options=["--clone-tensors"],
)
case(
    "passthrough-scale",
    "passthrough",
    "scale by filter: the second copy adds nothing to the residual stream",
    plan=True,
    slices=[
        {"sources": [source("a", 0, 2)]},
        {
            "sources": [
                source(
                    "a", 1, 2, scale=[{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.5}, {"value": 1.0}]
                )
            ]
        },
    ],
    options=["--clone-tensors"],
)
case(
    "slices-linear",
    "linear",
    "slices with weights of their own at each level",
    "ulp2",
    plan=True,
    slices=[
        {"sources": [source("a", 0, 1, weight=0.3), source("b", 1, 2)]},
        {
            "sources": [source("a", 1, 2), source("c", 0, 1, weight=[{"filter": "mlp", "value": 0.9}])],
            "parameters": {"weight": 0.4},
        },
    ],
    parameters={"weight": 0.6},
)
case(
    "slices-slerp",
    "slerp",
    "a gradient starts anew in each slice",
    "ulp2",
    plan=True,
    base_model=BASE,
    slices=[{"sources": [source("base", 0, 2), source("a", 0, 2)]}, {"sources": [source("base", 0, 1), source("a", 1, 2)]}],
    parameters={"t": [{"filter": "self_attn", "value": [0.1, 0.9]}, {"filter": "mlp", "value": [0.9, 0.1]}, {"value": 0.5}]},
)
case(
    "slices-base",
    "task_arithmetic",
    "a slice with a base model of its own",
    plan=True,
    base_model=BASE,
    slices=[
        {"sources": [source("base", 0, 1), source("a", 0, 1, weight=0.7)]},
        {"sources": [source("c", 0, 1), source("b", 1, 2, weight=0.4)], "base_model": "models/c"},
    ],
)
case(
    "modules-models",
    "linear",
    "modules, with parameters of the module",
    "ulp2",
    plan=True,
    modules={"default": {"models": weighted(AB, (None, 0.7)), "parameters": {"weight": 0.3}}},
    parameters={"weight": 9.0, "normalize": True},
)
case(
    "modules-slices",
    "passthrough",
    "modules with slices",
    plan=True,
    modules={"default": {"slices": [{"sources": [source("a", 0, 1)]}, {"sources": [source("b", 1, 2)]}]}},
)
case(
    "parameters-order",
    "ties",
    "filters fall through to the next level; the first match wins",
    plan=True,
    base_model=BASE,
    models=models(
        ("a", {"weight": [{"filter": "mlp", "value": [0.2, 0.9]}, {"filter": "mlp.up_proj", "value": 5.0}]}),
        ("b", {"weight": 0.5, "density": [{"filter": "self_attn", "value": 0.8}]}),
        ("c", {"weight": [1.0, 0.0]}),
    ),
    parameters={
        "weight": 0.3,
        "density": [{"filter": "embed", "value": 1.0}, {"filter": "*", "value": [0.9, 0.4]}],
        "lambda": [0.5, 1.0],
        "normalize": [True, False],
    },
)
case(
    "parameters-unknown",
    "linear",
    "a parameter that no method knows is ignored",
    "ulp2",
    models=weighted(AB, (0.3, 0.7)),
    parameters={"wieght": 3.0, "density": 0.5},
)
case("keys-unknown", "linear", "a key that nobody knows is ignored", "ulp2", models=weighted(AB, (0.3, 0.7)), base_modle=BASE)
case(
    "weights-text",
    "linear",
    "numbers written as 1e-1, which YAML takes for text",
    "ulp2",
    models=weighted(AB, ("1e-1", "9e-1")),
)
for name, covers, body in (
    ("fails-no-weight", "a required parameter that nobody sets", {"models": weighted(AB, (0.3, None))}),
    (
        "fails-two-inputs",
        "models and slices at once",
        {"models": weighted(AB, (1, 1)), "slices": [{"sources": [source("a", 0, 2)]}]},
    ),
    ("fails-no-inputs", "neither models nor slices nor modules", {}),
    (
        "fails-lengths",
        "sources of one slice with different numbers of layers",
        {"slices": [{"sources": [source("a", 0, 2, weight=1), source("b", 0, 1, weight=1)]}]},
    ),
    ("fails-layer", "a layer that isn't there", {"slices": [{"sources": [source("a", 0, 3, weight=1)]}]}),
    ("fails-vocabulary", "embeddings with different numbers of rows", {"models": weighted(("a", "b-vocab43"), (0.3, 0.7))}),
    (
        "fails-tokenizer-twice",
        "tokenizer and tokenizer_source",
        {"models": weighted(AB, (1, 1)), "tokenizer_source": "base", "tokenizer": {"source": "base"}},
    ),
    ("fails-two-ats", "two revisions", {"models": models(("a@x@y", {"weight": 1}))}),
    ("fails-dtype", "a type that isn't one", {"models": weighted(AB, (1, 1)), "out_dtype": "float8"}),
    ("fails-shapes", "matrices of different shapes", {"models": weighted(("a", "edge-a"), (0.3, 0.7))}),
):
    case(name, "linear", covers, "fails", **body)
case("fails-method", "linaer", "a method that isn't one", "fails", models=weighted(AB, (1, 1)))
case("fails-no-base", "ties", "no base model", "fails", models=weighted(AB, (1, 1)))
case(
    "fails-slerp-three",
    "slerp",
    "three models",
    "fails",
    models=models(("a", {}), ("b", {}), ("c", {})),
    base_model="models/a",
    parameters={"t": 0.5},
)
case(
    "truncated-vocabulary",
    "linear",
    "embeddings cut to the smaller vocabulary on request",
    "ulp2",
    options=["--unsafe-truncate-embeddings"],
    models=weighted(("a", "b-vocab43"), (0.3, 0.7)),
)

# ---- adapters ----
case("lora-linear", "linear", "a model with a LoRA adapter", "ulp2", models=weighted(("base+models/lora", "a"), (0.5, 0.5)))
case(
    "lora-task",
    "task_arithmetic",
    "two adapters of one base, one of them rank-stabilised with patterns",
    "ulp2",
    base_model=BASE,
    models=weighted(("base+models/lora", "base+models/lora-rs"), (0.7, 0.4)),
)

# ---- vocabularies ----
TOK = ("tok-base", "tok-a", "tok-b")


def vocabulary(name, covers, names=TOK, base="models/tok-base", method="linear", **keys):
    case(name, method, covers, "ulp2", base_model=base, models=weighted(names, (0.2, 0.3, 0.5)), **keys)


vocabulary("tokenizer-union", "the union of three vocabularies", tokenizer={"source": "union"})
vocabulary("tokenizer-base", "the base's vocabulary", tokenizer={"source": "base"})
vocabulary("tokenizer-model", "one model's vocabulary", tokenizer={"source": "models/tok-b"})
vocabulary("tokenizer-legacy", "tokenizer_source", tokenizer_source="union")
vocabulary(
    "tokenizer-padded", "rows to a multiple of 16: the mean row", tokenizer={"source": "union", "pad_to_multiple_of": 16}
)
vocabulary(
    "tokenizer-no-base",
    "no base: shared tokens are averaged",
    names=("tok-a", "tok-b"),
    base=None,
    tokenizer={"source": "models/tok-a"},
)
vocabulary(
    "tokenizer-tokens",
    "sources for single tokens",
    tokenizer={
        "source": "union",
        "tokens": {
            "alpha": {"source": "models/tok-a", "force": True},
            "gamma": {"source": {"kind": "zero"}},
            "beta": {"source": {"kind": "model_token", "model": "models/tok-b", "token": "gamma"}, "force": True},
            "<new>": {"source": {"kind": "model_token", "model": "models/tok-a", "token_id": 5}},
            "w3": {"source": "models/tok-a", "force": True},
        },
    },
)
