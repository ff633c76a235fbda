#!/usr/bin/env python3
"""Checks, in Hugging Face transformers, that what `braid run` writes is a model like any other.

Not run by ctest: it needs torch and transformers (pip install torch transformers).

    tests/programs/check_recipes.py --braid build/default/bin/braid

What is checked:
  1. every method merges the zoo's experts into a directory that opens: no weight missing or left over, the configured
     type, finite logits, an answer by `generate`; the model card's front matter is YAML that names library and base;
  2. slices: a stack of layers opens with the number of layers that its config.json says;
  3. tied embeddings (a small GPT-2): the result opens and its output weights are its embedding;
  4. vocabularies: a union of two tokenizers opens with AutoTokenizer, each token's row is where the tokenizer says, and
     is that of the model that had the token; a chat template set by the recipe is the tokenizer's;
  5. shards: a result in several files opens as the one in a single file does.

Exit status 0 if all holds; 1, and a line for each failure, if not.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          PreTrainedTokenizerFast)
from transformers.utils import logging

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZOO = os.path.join(ROOT, "examples", "zoo")
failures = []

# Each method with parameters that it needs: whether it takes a base, how many models, parameters of the tensor and of the model.
METHODS = {
    "linear": (False, 3, {}, {"weight": 0.5}),
    "slerp": (True, 1, {"t": 0.4}, {}),
    "nuslerp": (True, 2, {}, {"weight": 0.5}),
    "multislerp": (True, 3, {}, {"weight": 0.5}),
    "karcher": (False, 3, {}, {}),
    "model_stock": (True, 3, {}, {}),
    "task_arithmetic": (True, 3, {}, {"weight": 0.3}),
    "ties": (True, 3, {"density": 0.5}, {"weight": 0.5}),
    "dare_linear": (True, 3, {"density": 0.5}, {"weight": 0.3}),
    "dare_ties": (True, 3, {"density": 0.5}, {"weight": 0.3}),
    "breadcrumbs": (True, 3, {"density": 0.8, "gamma": 0.01}, {"weight": 0.3}),
    "breadcrumbs_ties": (True, 3, {"density": 0.8, "gamma": 0.01}, {"weight": 0.3}),
    "della": (True, 3, {"density": 0.5, "epsilon": 0.1}, {"weight": 0.3}),
    "della_linear": (True, 3, {"density": 0.5, "epsilon": 0.1}, {"weight": 0.3}),
    "sce": (True, 3, {"select_topk": 0.5}, {}),
    "nearswap": (True, 1, {"t": 0.001}, {}),
    "arcee_fusion": (True, 1, {}, {}),
    "ram": (True, 3, {}, {}),
    "ramplus_tl": (True, 3, {}, {}),
    "passthrough": (False, 1, {}, {}),
}


def check(holds, sentence):
    if not holds:
        failures.append(sentence)
        print(f"FAILED: {sentence}")


def open_model(what, directory):
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        check(not info[kind], f"{what}: {kind}: {sorted(info[kind])[:5]}")
    return model.eval()


def logits_of(what, model):
    tokens = torch.randint(0, model.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(tokens).logits
    check(bool(torch.isfinite(out).all()), f"{what}: logits aren't finite")
    return out


def card(what, directory, base):
    with open(os.path.join(directory, "README.md"), encoding="utf-8") as f:
        text = f.read()
    check(text.startswith("---\n"), f"{what}: the card has no front matter")
    front = yaml.safe_load(text.split("---\n")[1])
    check(front.get("library_name") == "transformers", f"{what}: the card names no library")
    check(bool(front.get("base_model")) == base, f"{what}: the card's base_model: {front.get('base_model')}")
    check("merge" in front.get("tags", []), f"{what}: the card isn't tagged as a merge")


class Runner:
    def __init__(self, braid, folder):
        self.braid, self.folder, self.count = braid, folder, 0

    def __call__(self, recipe, root, *options):
        self.count += 1
        path = os.path.join(self.folder, f"recipe-{self.count}.yml")
        out = os.path.join(self.folder, f"result-{self.count}")
        with open(path, "w", encoding="utf-8") as f:
            yaml.safe_dump(recipe, f)
        done = subprocess.run([self.braid, "run", path, out, "--model-root", root, *options], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{recipe}\n{done.stderr}")
        return out


def every_method(run):
    experts = ["add", "sort", "cipher", "facts"]
    for name, (based, count, of_tensor, of_model) in METHODS.items():
        recipe = {"merge_method": name, "dtype": "float32", "out_dtype": "bfloat16", "parameters": of_tensor,
                  "models": [{"model": m, "parameters": of_model} for m in experts[:count]]}
        if based:
            recipe["base_model"] = "base"
        out = run(recipe, ZOO)
        model = open_model(name, out)
        check(model.dtype == torch.bfloat16, f"{name}: {model.dtype}")
        logits_of(name, model)
        answer = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
        check(answer.shape[1] > 3, f"{name}: nothing is generated")
        card(name, out, True)
    print(f"{len(METHODS)} methods")


def slices(run):
    recipe = {"merge_method": "passthrough", "dtype": "bfloat16",
              "slices": [{"sources": [{"model": "add", "layer_range": [0, 3]}]}, {"sources": [{"model": "sort", "layer_range": [1, 4]}]}]}
    model = open_model("slices", run(recipe, ZOO))
    check(model.config.num_hidden_layers == 6 and len(model.model.layers) == 6, "slices: layers")
    logits_of("slices", model)
    print("slices")


def tied(run, folder):
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    for seed, name in enumerate(["tied-base", "tied-a", "tied-b"]):
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(os.path.join(folder, name))
    recipe = {"merge_method": "ties", "base_model": "tied-base", "parameters": {"density": 0.5, "weight": 1.0},
              "models": [{"model": "tied-a"}, {"model": "tied-b"}]}
    model = open_model("tied embeddings", run(recipe, folder))
    check(model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr(), "tied embeddings: not tied")
    logits_of("tied embeddings", model)
    print("tied embeddings")


def with_tokenizer(folder, name, words, seed):
    path = os.path.join(folder, name)
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(path)
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def vocabularies(run, folder):
    with_tokenizer(folder, "words-a", ["one", "two", "three", "apple"], 2)
    with_tokenizer(folder, "words-b", ["three", "pear", "one", "two", "plum"], 3)
    recipe = {"merge_method": "linear", "dtype": "float32", "tokenizer": {"source": "union"},
              "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
              "models": [{"model": m, "parameters": {"weight": 1.0}} for m in ["words-a", "words-b"]]}
    out = run(recipe, folder)
    model, tokenizer = open_model("union", out), AutoTokenizer.from_pretrained(out)
    table = tokenizer.get_vocab()
    check(set(table) == {"<unk>", "<s>", "</s>", "one", "two", "three", "apple", "pear", "plum"}, f"union: tokens {sorted(table)}")
    check(model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == len(table), "union: rows")
    rows = {name: (AutoModelForCausalLM.from_pretrained(os.path.join(folder, name)).get_input_embeddings().weight,
                   AutoTokenizer.from_pretrained(os.path.join(folder, name)).get_vocab()) for name in ["words-a", "words-b"]}
    merged = model.get_input_embeddings().weight
    a, b = rows["words-a"], rows["words-b"]
    same = torch.allclose(merged[table["two"]], (a[0][a[1]["two"]] + b[0][b[1]["two"]]) / 2, atol=1e-6)
    check(same, "union: the row of a token that both have isn't their mean")
    check(tokenizer("one pear")["input_ids"] == [table["one"], table["pear"]], "union: tokens of a text")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "two"}], tokenize=False)
    check(said == "two", f"union: the chat template says {said!r}")
    logits_of("union", model)
    print("vocabularies")


def shards(run):
    recipe = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 0.5}} for m in ["add", "sort"]]}
    one = open_model("one file", run(recipe, ZOO))
    out = run(recipe, ZOO, "--max-shard-size", "1MB")
    check(os.path.exists(os.path.join(out, "model.safetensors.index.json")), "shards: no index")
    several = open_model("shards", out)
    check(torch.equal(logits_of("one file", one), logits_of("shards", several)), "shards: logits differ")
    print("shards")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--braid", required=True, help="the program")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        run = Runner(os.path.abspath(args.braid), folder)
        every_method(run)
        slices(run)
        tied(run, folder)
        vocabularies(run, folder)
        shards(run)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
