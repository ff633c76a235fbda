"""Runs mergekit's command line program in this process and records what happened on the way: the inputs and parameters
of every tensor, and which elements of each delta it kept. mergekit's code is watched, not changed."""

import json
import pathlib
import re
import shutil
import tempfile

import numpy as np
import torch
from mergekit import sparsify
from mergekit.io.tasks import LoaderCache
from mergekit.merge_methods import generalized_task_arithmetic as gta
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.scripts.run_yaml import main as mergekit_yaml
from safetensors.torch import load_file, save_file

import reference


class Watch:
    """What one run did, tensor by tensor, in the order of the run."""

    def __init__(self):
        self.tensors = []

    def __enter__(self):
        self.originals = (ExecuteMergeMethodTask.execute, gta.sparsify, sparsify.rescaled_masked_tensor)
        execute, sparsify_one, rescale = self.originals
        watch = self

        def watched_execute(task, tensors, **rest):
            order = [m for m in task.model_order if tensors.get(m) is not None]
            gather = getattr(task.gather_tensors, "gather_tensors", task.gather_tensors)
            names = {m: w.name for m, w in gather.weight_info.items()}
            watch.tensors.append(
                {
                    "name": task.output_weight.name,
                    "models": [str(m) for m in order],
                    "inputs": [names[m] for m in order],
                    "base": order.index(task.base_model) if task.base_model in order else None,
                    "shared": dict(task.parameters.items()),
                    "per_input": [dict(task.input_parameters[m].items()) for m in order],
                    "values": [tensors[m].detach().clone() for m in order],
                    "masks": [None] * len(order),
                    "sparsified": -1,
                }
            )
            result = execute(task, tensors=tensors, **rest)
            watch.tensors[-1]["result"] = None if result is None else result.detach().clone()
            return result

        def watched_sparsify(*arguments, **rest):
            t = watch.tensors[-1]
            t["sparsified"] += 1
            if t["sparsified"] == t["base"]:
                t["sparsified"] += 1
            return sparsify_one(*arguments, **rest)

        def watched_rescale(tensor, mask, *arguments, **rest):
            t = watch.tensors[-1]
            t["masks"][t["sparsified"]] = mask.detach().clone().to(torch.uint8)
            return rescale(tensor, mask, *arguments, **rest)

        ExecuteMergeMethodTask.execute, gta.sparsify = watched_execute, watched_sparsify
        sparsify.rescaled_masked_tensor = watched_rescale
        return self

    def __exit__(self, *_):
        ExecuteMergeMethodTask.execute, gta.sparsify, sparsify.rescaled_masked_tensor = self.originals


class Result:
    def __init__(self):
        self.entry, self.problems = {}, []


def short_error(error, scratch):
    lines = [line.strip() for line in str(error).replace(scratch, "OUT").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("For further information")]
    return {"type": type(error).__name__, "message": re.sub(r"/\S*/(?=[\w.-]+)", "", " | ".join(lines))[:400]}


def run(case, recipe):
    result = Result()
    scratch = tempfile.mkdtemp(prefix="braid-golden-run-")
    out = pathlib.Path(scratch) / "out"
    arguments = [
        str(recipe),
        str(out),
        "--quiet",
        "--no-write-model-card",
        "--no-copy-tokenizer",
        "--lora-merge-cache",
        scratch,
        "--lora-merge-dtype",
        "float32",
        *case["options"],
    ]
    if case["seed"] is not None:
        arguments += ["--random-seed", str(case["seed"])]
    try:
        LoaderCache().loaders.clear()
        with Watch() as watch:
            mergekit_yaml(arguments, standalone_mode=False)
    except Exception as error:  # noqa: BLE001  any failure of mergekit is a fact to record
        result.entry["error"] = short_error(error, scratch)
        if case["agree"] != "fails":
            result.problems.append(f"mergekit fails: {result.entry['error']}")
        return result
    else:
        if case["agree"] == "fails":
            result.problems.append("mergekit was expected to fail")
            case = {**case, "agree": "ulp2"}
        store(case, watch, out, result)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return result


def store(case, watch, out, result):
    name, entry = case["name"], result.entry
    written = load_file(out / "model.safetensors")
    entry["agree"] = case["agree"]
    entry["output"] = f"expected/{name}.safetensors"
    shutil.copy(out / "model.safetensors", entry["output"])
    config = json.loads((out / "config.json").read_text())
    # Without a base model, the config comes from any of the models: which one changes from process to process.
    has_base = "base_model" in case["recipe"]
    keys = ("num_hidden_layers", "vocab_size", "dtype", "tie_word_embeddings") if has_base else ("num_hidden_layers",)
    entry["config"] = {k: config[k] for k in keys if k in config}
    if "tokenizer" in case["recipe"] or "tokenizer_source" in case["recipe"]:
        # In a union, tokens that the base lacks come in an order that changes from process to process: compare by token.
        entry["vocabulary"] = f"expected/{name}.vocabulary.json"
        tokenizer = json.loads((out / "tokenizer.json").read_text())
        vocabulary = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
        pathlib.Path(entry["vocabulary"]).write_text(json.dumps(dict(sorted(vocabulary.items(), key=lambda kv: kv[1]))) + "\n")
    if any(not torch.isfinite(t.float()).all() for t in written.values()):
        entry["nonfinite"] = True

    masks, exact, unstable, bits_differ, own_ties = {}, {}, [], [], []
    worst, farther = 0.0, []
    drawn = reference.TASK_ARITHMETIC.get(case["method"], (None,))[0] == "mask"
    for t in watch.tensors:
        inputs = [v.to(torch.float64).numpy() for v in t["values"]]
        per_input = {k: [p.get(k) for p in t["per_input"]] for p in t["per_input"] for k in p}
        kept = [None if m is None else m.numpy() for m in t["masks"]]

        def ours(F, given):
            return np.ascontiguousarray(reference.merge(case["method"], inputs, t["base"], t["shared"], per_input, given, F))

        nobody = [None] * len(kept)
        exact[t["name"]] = torch.from_numpy(ours(np.float64, kept if drawn else nobody))
        for model, mask in zip(t["models"], t["masks"]):
            if mask is not None:
                masks[f"{pathlib.PurePath(model).name}/{t['name']}"] = mask.reshape(t["values"][0].shape)
        got = t["result"]
        if got.dtype == torch.float32:
            bits = got.numpy().view(np.int32)
            plain = ours(np.float32, kept)
            if not np.array_equal(plain.view(np.int32), bits) and not np.isnan(plain).any():
                bits_differ.append(t["name"])
            elif not drawn and not np.array_equal(ours(np.float32, nobody).view(np.int32), bits) and not np.isnan(plain).any():
                own_ties.append(t["name"])
        answer = ours(np.float64, kept)
        difference = np.abs(got.double().numpy() - answer)
        if case["agree"] == "bf16":  # float32 arithmetic and one rounding must be as near to the truth everywhere
            rounded = torch.from_numpy(ours(np.float32, kept if drawn else nobody)).to(got.dtype).double().numpy()
            truth = exact[t["name"]].numpy()
            if np.square(rounded - truth).sum() > np.square(got.double().numpy() - truth).sum():
                farther.append(t["name"])
        scale = max([float(np.abs(answer).max()), *(float(np.abs(x).max()) for x in inputs if x.size)])
        if np.isfinite(difference).all() and scale > 0:
            error = float(difference.max()) / scale
            if case["agree"] in ("ulp2", "mask") and error > 1e-6:
                unstable.append(t["name"])
            else:
                worst = max(worst, error)
    entry["error_of_mergekit"] = float(f"{worst:.3g}")
    if not bits_differ:
        entry["bits"] = "fma" if case["method"] == "linear" else "plain"
    # Where a sum nearly cancels, its sign depends on roundings; bits are checked instead, where they can be.
    if worst > {"bf16": 0.5, "exact": 1.0}.get(case["agree"], 1e-6):
        result.problems.append(f"differs from the float64 reference by {worst:.3g}")
    if case["agree"] == "exact" and bits_differ:
        result.problems.append(f"isn't exact in {len(bits_differ)} tensors: {bits_differ[:3]}")
    if farther:
        result.problems.append(f"float32 and one rounding is farther from float64 in {farther}")
    if own_ties:  # torch's sort isn't stable: which of several equal magnitudes survive is its own affair
        entry["ties_differ"] = own_ties
    if unstable != case["unstable"]:
        result.problems.append(f"ill-conditioned tensors: {unstable}, expected {case['unstable']}")
    if unstable:
        entry["unstable"] = unstable
    if masks and (drawn or own_ties):
        entry["masks"] = f"masks/{name}.safetensors"
        save_file(dict(sorted(masks.items())), entry["masks"])
    if case["agree"] == "bf16":
        entry["reference"] = f"reference/{name}.safetensors"
        save_file(dict(sorted(exact.items())), entry["reference"])
    if case["plan"]:
        entry["plan"] = f"plans/{name}.json"
        fields = ("name", "models", "inputs", "base", "shared", "per_input")
        plan = [{k: t[k] for k in fields} for t in sorted(watch.tensors, key=lambda t: t["name"])]
        lines = ",\n".join(json.dumps(p) for p in plan)
        pathlib.Path(entry["plan"]).write_text(f"[\n{lines}\n]\n")
