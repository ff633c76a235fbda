"""Merges of bfloat16 tensors on a GPU in plain PyTorch, with the arithmetic and the steps of mergekit (docs/parity.md): what
`bench_cuda_*` is compared with. Nothing is fused; every step reads and writes whole tensors in the inputs' type.

    python3 benchmarks/peer/torch_merge.py [REPEATS]

Prints the median time of each method between two events, and the least bytes of its merge, (N + 2) x tensor, over that time.
"""

import sys

import torch

MODELS = 4
SHAPES = [(4096, 14336), (14336, 4096), (4096, 4096)]
DENSITY = 0.7
EPSILON = 0.15


def trim(delta, density):
    """The `density` largest magnitudes, by a full sort."""
    flat = delta.abs().view(-1)
    kept = torch.argsort(flat, descending=True)[: int(density * flat.numel())]
    mask = torch.zeros_like(flat)
    mask[kept] = 1
    return delta * mask.view_as(delta)


def rescaled(delta, pruned):
    """Keeps the sum of magnitudes."""
    before, after = delta.abs().sum(), pruned.abs().sum()
    return pruned * (before / after)


def drop(delta, density):
    return rescaled(delta, delta * torch.bernoulli(torch.full_like(delta, density)))


def drop_by_rank(delta, density):
    """Keep probabilities that rise with the rank in the row, by two sorts."""
    rank = torch.argsort(torch.argsort(delta.abs(), dim=1), dim=1).to(delta.dtype) + 1
    low, high = rank.min(dim=1, keepdim=True).values, rank.max(dim=1, keepdim=True).values
    keep = (density - EPSILON) + ((rank - low) / (high - low)).clamp(0, 1) * 2 * EPSILON
    return rescaled(delta, delta * torch.bernoulli(keep))


def add(base, deltas, weights):
    return base + (torch.stack(deltas, dim=0) * weights).sum(dim=0)


def elect(base, deltas, weights):
    """TIES: the sign with the larger sum, the mean of those that agree."""
    stacked = torch.stack(deltas, dim=0) * weights
    majority = (stacked.sum(dim=0) >= 0).to(stacked.dtype) * 2 - 1
    mask = stacked.sign() == majority
    divisor = (weights * mask).sum(dim=0)
    divisor[divisor == 0] = 1
    return base + (stacked * mask).sum(dim=0) / divisor


def linear(base, experts, weights):
    return (torch.stack([base, *experts], dim=0) / (1 + len(experts))).sum(dim=0)


METHODS = {
    "linear": linear,
    "task_arithmetic": lambda b, e, w: add(b, [x - b for x in e], w),
    "ties": lambda b, e, w: elect(b, [trim(x - b, DENSITY) for x in e], w),
    "dare_linear": lambda b, e, w: add(b, [drop(x - b, DENSITY) for x in e], w),
    "dare_ties": lambda b, e, w: elect(b, [drop(x - b, DENSITY) for x in e], w),
    "della": lambda b, e, w: elect(b, [drop_by_rank(x - b, DENSITY) for x in e], w),
}


def microseconds(function, repeats):
    times = []
    for number in range(repeats + 1):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        if number > 0:
            times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times)[len(times) // 2]


@torch.no_grad()
def main():
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, bf16, N = {MODELS}, density {DENSITY}")
    print(f"{'rows x cols':14} {'method':16} {'us':>10} {'GB/s':>8}")
    for rows, cols in SHAPES:
        torch.manual_seed(1)
        base = (torch.randn(rows, cols, device="cuda") * 0.02).bfloat16()
        experts = [(base.float() + torch.randn(rows, cols, device="cuda") * 0.0004).bfloat16() for _ in range(MODELS)]
        weights = torch.ones(MODELS, 1, 1, device="cuda", dtype=base.dtype)
        least = (MODELS + 2) * base.numel() * base.element_size()
        for name, method in METHODS.items():
            time = microseconds(lambda: method(base, experts, weights), repeats)
            print(f"{rows}x{cols:<9} {name:16} {time:10.1f} {least / time * 1e-3:8.1f}")


if __name__ == "__main__":
    main()
