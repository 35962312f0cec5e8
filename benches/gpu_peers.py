"""torch's figures for the shapes of benches/gpu: fused attention, attention that stores its scores, and products.

Prints why and does nothing where there is no torch or no GPU.
"""

import time

try:
    import torch
except ImportError:
    print("bench-gpu, torch: skipped. torch is not installed")
    raise SystemExit(0)
if not torch.cuda.is_available():
    print("bench-gpu, torch: skipped. no GPU that torch can use")
    raise SystemExit(0)


def seconds(run):
    """The best of three means, each of as many runs as take a twentieth of a second."""

    def several(times):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / times

    several(2)
    times = int(min(1000, max(3, 0.05 / several(1))))
    return min(several(times) for _ in range(3))


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def standard(q, k, v, causal):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        n = q.shape[-2]
        scores.masked_fill_(torch.ones(n, n, device="cuda", dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(-1) @ v


def attention():
    print("torch attention, 16 heads, bf16: scaled_dot_product_attention, and with scores stored")
    print(f"{'head':>5} {'mask':>7} {'tokens':>7} {'us':>10} {'TFLOP/s':>9} {'standard us':>12} {'TFLOP/s':>9}")
    for size in (64, 128, 256):
        for causal in (True, False):
            for n in (512, 1024, 2048, 4096, 8192, 16384):
                q, k, v = (random(1, 16, n, size) for _ in range(3))
                pairs = n * (n + 1) // 2 if causal else n * n
                flops = 4 * 16 * size * pairs
                fused = seconds(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal))
                plain = seconds(lambda: standard(q, k, v, causal))
                mask = "causal" if causal else "none"
                print(f"{size:5} {mask:>7} {n:7} {fused * 1e6:10.1f} {flops / fused * 1e-12:9.1f}"
                      f" {plain * 1e6:12.1f} {flops / plain * 1e-12:9.1f}")


def products():
    print("\ntorch (cuBLAS) products, bf16")
    print(f"{'rows':>7} {'columns':>7} {'tokens':>7} {'us':>10} {'TFLOP/s':>9} {'GB/s':>9}")
    for rows, columns in ((4096, 4096), (11008, 4096), (4096, 11008), (128256, 2048)):
        w = random(rows, columns)
        for tokens in (1, 16, 256, 4096):
            x = random(tokens, columns)
            took = seconds(lambda: x @ w.T)
            flops, size = 2 * rows * columns * tokens, 2 * rows * columns
            print(f"{rows:7} {columns:7} {tokens:7} {took * 1e6:10.1f} {flops / took * 1e-12:9.1f} {size / took * 1e-9:9.0f}")


print(torch.cuda.get_device_name(), "torch", torch.__version__)
attention()
products()
