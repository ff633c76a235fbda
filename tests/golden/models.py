"""Small seeded checkpoints: Llama's tensor names, tiny shapes, one folder a model under data/models."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

HIDDEN, INTER, LAYERS, VOCAB, HEADS, KV_HEADS = 16, 24, 2, 40, 4, 2

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LAYER_SHAPES = {
    "input_layernorm.weight": (HIDDEN,),
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "post_attention_layernorm.weight": (HIDDEN,),
    "mlp.up_proj.weight": (INTER, HIDDEN),
    "mlp.gate_proj.weight": (INTER, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, INTER),
}


def layer(index, part):
    return f"model.layers.{index}.{part}"


def shapes(vocab=VOCAB, head=True):
    all_shapes = {"model.embed_tokens.weight": (vocab, HIDDEN)}
    for index in range(LAYERS):
        for part, shape in LAYER_SHAPES.items():
            all_shapes[layer(index, part)] = shape
    all_shapes["model.norm.weight"] = (HIDDEN,)
    if head:
        all_shapes["lm_head.weight"] = (vocab, HIDDEN)
    return all_shapes


def random_base(rng, all_shapes):
    base = {}
    for name, shape in all_shapes.items():
        x = rng.standard_normal(shape) * 0.05
        base[name] = (1 + x if "norm" in name else x).astype(np.float32)
    return base


def random_expert(rng, base, spread=0.01):
    """Heavy-tailed deltas, a fifth of them exactly zero: fine-tuning leaves much untouched."""
    expert = {}
    for name, b in base.items():
        d = rng.standard_normal(b.shape) * np.exp(rng.standard_normal(b.shape)) * spread
        d[rng.random(b.shape) < 0.2] = 0
        expert[name] = (b.astype(np.float64) + d).astype(np.float32)
    return expert


def write(root, name, tensors, dtype=torch.float32, config=None, shards=1):
    """tensors: name -> array or torch tensor; arrays are rounded to dtype (nearest even)."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    full = {**CONFIG, "torch_dtype": str(dtype).removeprefix("torch."), **(config or {})}
    (folder / "config.json").write_text(json.dumps(full, indent=1, sort_keys=True) + "\n")
    ready = {}
    for key in sorted(tensors):
        value = tensors[key]
        ready[key] = (value if isinstance(value, torch.Tensor) else torch.from_numpy(value.copy())).to(dtype).contiguous()
    if shards == 1:
        save_file(ready, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(ready)
    weight_map = {}
    for s in range(shards):
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: ready[key] for key in names[s::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update({key: file for key in part})
    total = sum(t.numel() * t.element_size() for t in ready.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def edge_family(rng):
    """Every tensor is a corner case of its own; a Llama in its names only."""
    base = {name: np.zeros((1,), np.float32) for name in shapes()}
    experts = {e: dict(base) for e in "abc"}

    def put(name, start, /, **deltas):
        b = np.asarray(start, np.float32)
        base[name] = b
        for e in "abc":
            experts[e][name] = (b + np.asarray(deltas[e], np.float32)).astype(np.float32)

    def normal(shape):
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    def dyadic(shape, levels=(-0.5, -0.25, 0.25, 0.5)):
        return rng.choice(np.float32(levels), size=shape)

    zero = np.zeros
    # One expert untouched, and none changed at all.
    put(layer(0, "self_attn.q_proj.weight"), normal((8, 8)), a=zero((8, 8)), b=normal((8, 8)), c=normal((8, 8)))
    put(layer(1, "self_attn.q_proj.weight"), normal((8, 8)), a=zero((8, 8)), b=zero((8, 8)), c=zero((8, 8)))
    # Two magnitudes only: the trim's threshold falls among equals, and signs cancel exactly.
    tied_base = np.round(rng.standard_normal((8, 12)) * 4).astype(np.float32)
    put(layer(0, "self_attn.k_proj.weight"), tied_base, a=dyadic((8, 12)), b=dyadic((8, 12)), c=dyadic((8, 12)))
    same = np.full((8, 12), 0.25, np.float32) * np.sign(normal((8, 12)))
    put(layer(1, "self_attn.k_proj.weight"), tied_base, a=same, b=-same, c=np.abs(same))
    # One row, another, one column; one element is a vector below.
    put(layer(0, "self_attn.v_proj.weight"), normal((1, 12)), a=normal((1, 12)), b=normal((1, 12)), c=normal((1, 12)))
    put(layer(1, "self_attn.v_proj.weight"), normal((1, 100)), a=normal((1, 100)), b=normal((1, 100)), c=normal((1, 100)))
    put(layer(0, "self_attn.o_proj.weight"), normal((9, 1)), a=normal((9, 1)), b=normal((9, 1)), c=normal((9, 1)))
    # density * elements on the edge of an integer: 0.29 * 100 is 28.999..., 0.7 * 10 is 7.000...01.
    put(layer(0, "mlp.up_proj.weight"), normal((10, 10)), a=normal((10, 10)), b=normal((10, 10)), c=normal((10, 10)))
    put(layer(1, "mlp.up_proj.weight"), normal((2, 5)), a=normal((2, 5)), b=normal((2, 5)), c=normal((2, 5)))
    # Zeros of both signs, in the base and in the experts.
    signs = np.where(rng.random((6, 8)) < 0.5, np.float32(-0.0), np.float32(0.0))
    put(layer(0, "mlp.gate_proj.weight"), signs, a=zero((6, 8)), b=zero((6, 8)), c=zero((6, 8)))
    for e in "abc":
        experts[e][layer(0, "mlp.gate_proj.weight")] = np.where(rng.random((6, 8)) < 0.5, np.float32(-0.0), np.float32(0.0))
    mixed = signs.copy()
    mixed[::2] = normal((3, 8))
    put(layer(1, "mlp.gate_proj.weight"), mixed, a=dyadic((6, 8), (-0.125, 0.0, 0.125)), b=normal((6, 8)), c=-signs)
    # Numbers far apart, and tiny ones.
    wide = (rng.standard_normal((8, 8)) * 10.0 ** rng.integers(-6, 3, (8, 8))).astype(np.float32)
    put(layer(0, "mlp.down_proj.weight"), wide, a=wide[::-1], b=wide.T, c=-wide)
    tiny = (rng.standard_normal((8, 8)) * 1e-7).astype(np.float32)
    put(layer(1, "mlp.down_proj.weight"), tiny, a=tiny[::-1], b=tiny.T, c=-tiny)
    put(layer(1, "self_attn.o_proj.weight"), normal((3, 7)), a=normal((3, 7)), b=normal((3, 7)), c=normal((3, 7)))
    # Vectors, of 1 and more elements.
    for name, n in {
        layer(0, "input_layernorm.weight"): 16,
        layer(0, "post_attention_layernorm.weight"): 7,
        layer(1, "input_layernorm.weight"): 1,
        layer(1, "post_attention_layernorm.weight"): 33,
        "model.norm.weight": 16,
    }.items():
        put(name, 1 + normal(n), a=normal(n), b=normal(n), c=normal(n))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        put(name, normal((9, 5)), a=normal((9, 5)), b=normal((9, 5)), c=normal((9, 5)))
    return base, experts


def angle_family(rng):
    """Pairs for interpolation on the sphere: opposite, parallel, zero, nearly parallel, right-angled."""
    base, other = {}, {}
    for i, name in enumerate(shapes()):
        x = (rng.standard_normal((4, 6)) * 0.1).astype(np.float32)
        y = (rng.standard_normal((4, 6)) * 0.1).astype(np.float32)
        kind = i % 7
        if kind == 0:
            y = -x
        elif kind == 1:
            y = 2 * x
        elif kind == 2:
            y = np.zeros_like(x)
        elif kind == 3:
            x = np.zeros_like(y)
        elif kind == 4:  # cosine about 0.9999: taken for parallel
            y = (x + 0.01 * y).astype(np.float32)
        elif kind == 5:
            x, y = np.zeros_like(x), np.zeros_like(y)
            x[0, 0], y[1, 1] = 0.5, 0.25
        base[name], other[name] = x, y
    return base, other


def write_all(root):
    rng = np.random.default_rng(20250101)
    base = random_base(rng, shapes())
    experts = {e: random_expert(rng, base) for e in "abc"}
    write(root, "base", base)
    for e, tensors in experts.items():
        write(root, e, tensors)
    write(root, "a-sharded", experts["a"], shards=3)
    write(root, "base-bf16", base, torch.bfloat16)
    for e, tensors in experts.items():
        write(root, f"{e}-bf16", tensors, torch.bfloat16)
    write(root, "a-f16", experts["a"], torch.float16)
    write(root, "b-f16", experts["b"], torch.float16)

    # bfloat16 whose deltas are a few units in the last place: nearly all magnitudes are equal to others.
    flood = {n: torch.from_numpy(t).to(torch.bfloat16) for n, t in base.items()}
    write(root, "flood-base", flood, torch.bfloat16)
    for e in "abc":
        steps = {
            n: t.view(torch.int16) + torch.from_numpy(rng.integers(-2, 3, tuple(t.shape)).astype(np.int16))
            for n, t in flood.items()
        }
        write(root, f"flood-{e}", {n: t.view(torch.bfloat16) for n, t in steps.items()}, torch.bfloat16)

    edge_base, edge_experts = edge_family(rng)
    write(root, "edge-base", edge_base)
    for e, tensors in edge_experts.items():
        write(root, f"edge-{e}", tensors)

    # One element in every tensor.
    one = {name: (rng.standard_normal((1,) * len(shape))).astype(np.float32) for name, shape in shapes().items()}
    write(root, "one-base", one)
    for e in "abc":
        write(root, f"one-{e}", {n: (t + rng.standard_normal(t.shape) * 0.1).astype(np.float32) for n, t in one.items()})

    angle_base, angle_other = angle_family(rng)
    write(root, "angle-base", angle_base)
    write(root, "angle-other", angle_other)
    write(root, "angle-origin", {n: np.zeros_like(t) for n, t in angle_base.items()})

    # A larger vocabulary, and models whose head is the embedding.
    more = dict(experts["b"])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        more[name] = np.concatenate([more[name], (rng.standard_normal((3, HIDDEN)) * 0.05).astype(np.float32)])
    write(root, "b-vocab43", more, config={"vocab_size": VOCAB + 3})
    tied = {"tie_word_embeddings": True}
    for e, tensors in {"base": base, **experts}.items():
        headless = {n: t for n, t in tensors.items() if n != "lm_head.weight"}
        if e in ("base", "a"):
            write(root, f"tied-{e}", headless, config=tied)
        elif e == "b":  # stores the head although it is tied
            headless["lm_head.weight"] = headless["model.embed_tokens.weight"]
            write(root, f"tied-{e}", headless, config=tied)
    write_adapter(root, rng)
    write_tokenizers(root, rng, base, experts)


def write_adapter(root, rng):
    """LoRA adapters as PEFT writes them: a plain one, and one scaled by alpha / sqrt(rank) with a pattern."""
    for name, extra, targets in (
        ("lora", {}, ("q_proj", "down_proj")),
        ("lora-rs", {"use_rslora": True, "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"k_proj": 3}}, ("q_proj", "k_proj")),
    ):
        rank, alpha = 4, 8
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "models/base",
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": list(targets),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            **extra,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        tensors = {}
        for index in range(LAYERS):
            for part, (rows, cols) in ((p, s) for p, s in LAYER_SHAPES.items() if any(t in p for t in targets)):
                module = part.removesuffix(".weight")
                r = next((v for k, v in extra.get("rank_pattern", {}).items() if module.endswith(k)), rank)
                prefix = f"base_model.model.model.layers.{index}.{module}"
                tensors[f"{prefix}.lora_A.weight"] = torch.from_numpy((rng.standard_normal((r, cols)) * 0.1).astype(np.float32))
                tensors[f"{prefix}.lora_B.weight"] = torch.from_numpy((rng.standard_normal((rows, r)) * 0.1).astype(np.float32))
        save_file(dict(sorted(tensors.items())), folder / "adapter_model.safetensors", metadata={"format": "pt"})


def tokenizer_json(tokens, added):
    def entry(i, content):
        return {
            "id": i,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }

    vocab = {t: i for i, t in enumerate(tokens)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [entry(0, "<unk>"), entry(1, "<s>"), entry(2, "</s>")]
        + [entry(len(tokens) + i, t) for i, t in enumerate(added)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }


def write_tokenizers(root, rng, base, experts):
    """Three models with vocabularies that overlap, in different orders, with tokens added behind."""
    words = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(30)]
    own = {
        "tok-base": (words, []),
        "tok-a": (words + ["alpha", "beta"], ["<a>"]),
        "tok-b": (words[:3] + words[3:][::-1] + ["beta", "gamma"], ["<b>", "<a>"]),
    }
    source = {"tok-base": base, "tok-a": experts["a"], "tok-b": experts["b"]}
    for name, (tokens, added) in own.items():
        vocab = len(tokens) + len(added)
        if name == "tok-base":
            vocab += 2  # rows that no token uses
        tensors = dict(source[name])
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[key] = (rng.standard_normal((vocab, HIDDEN)) * 0.05).astype(np.float32)
        write(root, name, tensors, config={"vocab_size": vocab})
        folder = root / name
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokens, added), indent=1) + "\n")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": 64,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
