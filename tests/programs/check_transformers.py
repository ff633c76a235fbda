#!/usr/bin/env python3
"""Checks, in Hugging Face transformers, that a grouped checkpoint is what docs/format.md says.

Not run by ctest: it needs torch, transformers and safetensors (pip install torch transformers safetensors).

    braid=build/default/bin/braid
    zoo=examples/zoo
    $braid channel-merge --base $zoo/base --expert add=$zoo/add --expert sort=$zoo/sort --groups 1 --out /tmp/merged
    tests/programs/check_transformers.py /tmp/merged --braid $braid

    # Lossless (as many groups as experts): every expert must equal the original, bit for bit.
    $braid channel-merge --base $zoo/base --expert add=$zoo/add --expert sort=$zoo/sort --groups 2 --out /tmp/same
    tests/programs/check_transformers.py /tmp/same --braid $braid --original add=$zoo/add --original sort=$zoo/sort

    # With residuals, of any code:
    $braid channel-merge --base $zoo/base --expert add=$zoo/add --expert sort=$zoo/sort --groups 1 --residual ternary --out /tmp/r
    tests/programs/check_transformers.py /tmp/r --braid $braid

What is checked:
  1. the PyTorch code of docs/format.md rebuilds each expert; `braid extract` gives the same tensors, bit for bit, and
     the same config and tokenizer files that the description names;
  2. the grouped directory opens as the first expert: no weight is missing, only "braid." ones are left over, and every
     parameter is the extracted first expert's; with residuals (format 2) it doesn't open at all;
  3. each extracted directory opens: nothing missing, nothing left over, finite logits; the first expert's logits are
     those of the grouped directory;
  4. with --original, each named expert equals its original: same tensors, same bits, same logits.

Exit status 0 if all holds; 1, and a line for each failure, if not.
"""

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
failures = []


def check(holds, sentence):
    if not holds:
        failures.append(sentence)
        print(f"FAILED: {sentence}")


def code_of_format_md():
    """The function load_expert, from the Python block of docs/format.md."""
    with open(os.path.join(ROOT, "docs", "format.md"), encoding="utf-8") as f:
        blocks = re.findall(r"```python\n(.*?)```", f.read(), re.S)
    assert len(blocks) == 1, "docs/format.md has one block of Python"
    names = {}
    exec(compile(blocks[0], "docs/format.md", "exec"), names)  # our own documentation
    return names["load_expert"]


def tensors_of(directory):
    out = {}
    for path in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        with safe_open(path, "pt") as f:
            out.update((key, f.get_tensor(key)) for key in f.keys())
    return out


def description_of(directory):
    for path in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        with safe_open(path, "pt") as f:
            if "braid" in (f.metadata() or {}):
                return json.loads(f.metadata()["braid"])
    sys.exit(f"{directory}: not a grouped checkpoint")


def same_bits(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def compare(what, got, expected):
    check(got.keys() == expected.keys(), f"{what}: tensors differ: {sorted(got.keys() ^ expected.keys())[:5]}")
    wrong = [name for name in got.keys() & expected.keys() if not same_bits(got[name], expected[name])]
    check(not wrong, f"{what}: {len(wrong)} tensors differ, such as {wrong[:3]}")


def open_model(what, directory, may_be_left=()):
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
    check(not info["missing_keys"], f"{what}: weights are missing: {sorted(info['missing_keys'])[:5]}")
    left = [key for key in info["unexpected_keys"] if not key.startswith(tuple(may_be_left))]
    check(not left, f"{what}: weights are left over: {sorted(left)[:5]}")
    check(not info["mismatched_keys"], f"{what}: shapes differ: {sorted(info['mismatched_keys'])[:5]}")
    return model.eval()


def refuses_to_open(directory):
    try:
        AutoModelForCausalLM.from_pretrained(directory)
    except OSError:
        return True
    return False


def logits(model):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, model.config.vocab_size, (2, 16), generator=generator)
    with torch.no_grad():
        return model(tokens).logits


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grouped", help="directory of a grouped checkpoint")
    parser.add_argument("--braid", required=True, help="the program, for braid extract")
    parser.add_argument("--original", action="append", default=[], metavar="NAME=DIR",
                        help="an expert that was merged without loss")
    args = parser.parse_args()
    logging.set_verbosity_error()  # the grouped directory's report of unexpected "braid." tensors is long
    logging.disable_progress_bar()
    originals = dict(pair.split("=", 1) for pair in args.original)
    load_expert = code_of_format_md()
    about = description_of(args.grouped)
    names = [e["name"] for e in about["experts"]]
    for name in originals.keys() - set(names):
        parser.error(f"no expert {name}; there are {', '.join(names)}")

    with tempfile.TemporaryDirectory() as scratch:
        for n, name in enumerate(names):
            extracted = os.path.join(scratch, name)
            subprocess.run([args.braid, "extract", args.grouped, "--expert", name, "--out", extracted], check=True,
                           stdout=subprocess.DEVNULL)
            tensors = tensors_of(extracted)
            compare(f"{name}, rebuilt in PyTorch", load_expert(args.grouped, name), tensors)
            for own, path in about["experts"][n].get("files", {}).items():
                with open(os.path.join(args.grouped, path), "rb") as a, open(os.path.join(extracted, own), "rb") as b:
                    check(a.read() == b.read(), f"{name}: {own} differs")

            model = open_model(f"{name}, extracted", extracted)
            out = logits(model)
            check(bool(torch.isfinite(out).all()), f"{name}: logits aren't finite")
            if n == 0 and about["format"] == 2:
                check(refuses_to_open(args.grouped), "the grouped directory opens, though its rows are no expert's")
            elif n == 0:
                first = open_model("the grouped directory", args.grouped, may_be_left=["braid."])
                compare("the grouped directory as a model", first.state_dict(), model.state_dict())
                check(torch.equal(logits(first), out), "the grouped directory: logits differ from the first expert's")
            if name in originals:
                compare(f"{name}, against the original", tensors, tensors_of(originals[name]))
                check(torch.equal(logits(open_model(f"{name}, original", originals[name])), out),
                      f"{name}: logits differ from the original's")
            print(f"{name}: {len(tensors)} tensors, {'as the original' if name in originals else 'consistent'}"
                  if not failures else f"{name}: see above")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
