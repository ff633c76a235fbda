"""What the lists of cases are written with."""

CASES = []


def case(name, method, covers, agree="exact", options=(), seed=None, dtype="float32", plan=False, unstable=(), **recipe):
    full = {"merge_method": method, **{k: v for k, v in recipe.items() if v is not None}}
    if dtype:
        full["dtype"] = dtype
    CASES.append(
        {
            "name": name,
            "method": method,
            "covers": covers,
            "agree": agree,
            "options": list(options),
            "seed": seed,
            "plan": plan,
            "unstable": list(unstable),
            "recipe": full,
        }
    )


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
EDGE = ("edge-a", "edge-b", "edge-c")
ONE = ("one-a", "one-b", "one-c")
BF = ("a-bf16", "b-bf16", "c-bf16")
FLOOD = ("flood-a", "flood-b", "flood-c")
