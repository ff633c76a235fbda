#!/usr/bin/env python3
"""Writes tests/golden/data: checkpoints, recipes, and what mergekit makes of them. CI compares braid with these files
and needs no Python; this program is run by hand when cases change.

    python3 tests/golden/generate.py [--venv DIR] [--data DIR] [--only PATTERN]

Installs the packages named below into a virtual environment (a new temporary folder unless --venv is given; several
gigabytes, as PyPI's torch is), runs mergekit's own command line program on the CPU with one thread for every case of
cases.py, and checks each result against reference.py before it is stored: in float32 bit for bit where a case claims
"exact", and against float64 everywhere.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# mergekit 0.1.5 is the newest on PyPI. It differs from 0.1.4 in what several methods compute (docs/parity.md).
PACKAGES = ["mergekit==0.1.5", "torch==2.15.0", "transformers==5.23.0", "peft==0.21.2", "numpy==2.4.6", "safetensors==0.8.0"]
HERE = pathlib.Path(__file__).resolve().parent


def enter_environment(arguments):
    venv = pathlib.Path(arguments.venv or tempfile.mkdtemp(prefix="braid-golden-"))
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {
        **os.environ,
        **offline,
        **one_thread,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BRAID_GOLDEN_INSIDE": "1",
    }
    command = [str(python), str(HERE / "generate.py"), "--data", str(arguments.data), "--only", arguments.only]
    raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


def referenced(recipe):
    """Paths of the models of a recipe, below the data folder."""
    found = set()

    def walk(value):
        if isinstance(value, dict):
            for v in value.values():
                walk(v)
        elif isinstance(value, list):
            for v in value:
                walk(v)
        elif isinstance(value, str) and value.startswith("models/"):
            found.update(value.split("+"))

    walk(recipe)
    return sorted(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", help="virtual environment to use or to make")
    parser.add_argument(
        "--data", default=HERE / "data", type=pathlib.Path, help="where the files go (default: tests/golden/data)"
    )
    parser.add_argument("--only", default="*", help="cases to run anew, as a pattern")
    arguments = parser.parse_args()
    if "BRAID_GOLDEN_INSIDE" not in os.environ:
        enter_environment(arguments)

    import numpy
    import safetensors
    import torch
    import transformers
    import yaml
    from importlib.metadata import version

    import models
    import record
    from cases import CASES

    torch.set_num_threads(1)
    data = arguments.data.resolve()
    everything = arguments.only == "*"
    if everything:
        shutil.rmtree(data, ignore_errors=True)
    for folder in ("recipes", "expected", "masks", "reference", "plans"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    if everything or not (data / "models").exists():
        models.write_all(data / "models")
    os.chdir(data)

    old = json.loads((data / "index.json").read_text()) if (data / "index.json").exists() else {"cases": [], "failures": []}
    done = {c["name"]: c for c in old["cases"] + old["failures"]}
    problems = []
    for case in CASES:
        if not fnmatch.fnmatch(case["name"], arguments.only):
            continue
        recipe = pathlib.Path("recipes") / (case["name"] + ".yml")
        recipe.write_text(yaml.safe_dump(case["recipe"], sort_keys=False, width=110))
        entry = {
            "name": case["name"],
            "method": case["method"],
            "covers": case["covers"],
            "recipe": str(recipe),
            "models": referenced(case["recipe"]),
            "options": case["options"],
            "seed": case["seed"],
        }
        result = record.run(case, recipe)
        entry.update(result.entry)
        problems += [f"{case['name']}: {p}" for p in result.problems]
        done[case["name"]] = entry
        print(
            f"{case['name']:32s} {entry.get('agree') or entry['error']['type']:8s} {entry.get('error_of_mergekit', '')}",
            flush=True,
        )

    order = [done[c["name"]] for c in CASES if c["name"] in done]
    index = {
        "packages": {
            p: version(p) for p in ("mergekit", "torch", "transformers", "peft", "numpy", "safetensors", "tokenizers")
        },
        "python": sys.version.split()[0],
        "cases": [e for e in order if "error" not in e],
        "failures": [e for e in order if "error" in e],
    }
    (data / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    size = sum(f.stat().st_size for f in data.rglob("*") if f.is_file())
    print(f"{len(index['cases'])} cases, {len(index['failures'])} failures of mergekit, {size / 1e6:.2f} MB")
    for p in problems:
        print("PROBLEM", p)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
