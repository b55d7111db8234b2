"""Where a training step goes on a V100, by operations and bytes: arithmetic on paper, for no V100 was at hand.

    python benchmarks/v100_on_paper.py

A micro-batch of the reference run (12 layers, hidden 768, vocabulary 12,000; 32 samples of 512 tokens; fp16-o2): matrix
products at a share of the tensor cores' rate, everything else at a share of the memory's bandwidth. The rows are what
``models/ops_paddle.py`` calls, once as plain kernels and once with the candidates that prove themselves on the
device (see docs/pretraining.md). What a host needs to start kernels is left out: at this size it hides behind them.

Sources: NVIDIA V100 data sheet (125 TFLOP/s of float16 matrix units, 900 GB/s); the shares are what cuBLAS and plain
copies are commonly seen to reach on that card, and are guesses for ours.
"""

from __future__ import annotations

from dataclasses import dataclass

PEAK, BANDWIDTH = 125e12, 900e9
PRODUCTS = 0.70  # share of PEAK in the large products
SMALL_PRODUCTS = 0.35  # in attention's, whose inner size is 64
COPIES = 0.80  # share of BANDWIDTH

LAYERS, H, F, HEADS, V = 12, 768, 3072, 12, 12_000
ROWS, LENGTH, MASKED = 32, 512, 0.15
P = ROWS * LENGTH
PARAMETERS = 95.5e6

U = P * H * 2  # bytes of one float16 run of hidden states
SCORES = ROWS * HEADS * LENGTH * LENGTH * 2 / U  # a layer's scores, in runs


@dataclass(frozen=True)
class Traffic:
    """What an operator of one layer reads and writes, in runs of hidden states, forward and backward.

    Attributes:
        name: For the table.
        plain: Forward and backward as plain kernels.
        fast: With the candidate kernels.
    """

    name: str
    plain: tuple[float, float]
    fast: tuple[float, float]


S = SCORES
# Forward counts reads and writes; backward reads the gradient and what was kept, and writes a gradient. A mask of
# dropout is a byte an element, half of a float16.
LAYER = (
    # q, k, v, out, down: one run each; up: four. Forward read and write; backward sums the gradient over tokens.
    Traffic("biases of the products", (2 * 9, 9), (0, 9)),
    # to float32, complex product, back: 1 + 2, 2 + 2, 2 + 1 of q and of k; in one kernel 1 + 1
    Traffic("rotation of q and k", (2 * 10, 2 * 10), (2 * 2, 2 * 2)),
    # q scaled; q, k, v to heads and the context back
    Traffic("scaling and transposes", (2 + 4 * 2, 2 + 4 * 2), (0, 0)),
    # scores written, + mask, softmax, dropout and its mask, read by the second product; backward the same and more
    Traffic("scores", (S + 2 * S + 2 * S + 2.5 * S + S, S + 2.5 * S + 3 * S + 2 * S + 3 * S), (4, 8)),
    # dropout 2.5, residual 3, norm 2; twice. In one kernel: change, residual in, mask, sum, norm out
    Traffic("dropout, residual, norm", (2 * 7.5, 2 * 9.5), (2 * 4.5, 2 * 5.5)),
    Traffic("gelu", (8, 12), (8, 12)),
)


def main() -> None:
    """Print the table."""
    products = 3 * LAYERS * 2 * P * (4 * H * H + 2 * H * F)
    attention = 3 * LAYERS * 4 * P * LENGTH * H
    head = 3 * 2 * MASKED * P * (H * H + H * V)
    flop = products + attention + head
    rows: list[tuple[str, float, float]] = [
        ("products of the layers", *[products / (PEAK * PRODUCTS)] * 2),
        ("products of the head", *[head / (PEAK * PRODUCTS)] * 2),
        # the fast kernel computes the scores again on the way back: seven products for six
        ("products of attention", attention / (PEAK * SMALL_PRODUCTS), attention * 7 / 6 / (PEAK * SMALL_PRODUCTS)),
    ]
    for each in LAYER:
        rows.append((each.name, *(LAYERS * sum(runs) * U / (BANDWIDTH * COPIES) for runs in (each.plain, each.fast))))
    # logits in float16 and float32, softmax and its gradient; half gradients added to float32 ones
    rows.append(("cross-entropy", *[MASKED * P * V * 26 / (BANDWIDTH * COPIES)] * 2))
    rows.append(("gradients into float32", *[PARAMETERS * 10 / (BANDWIDTH * COPIES)] * 2))
    # once a step of two micro-batches: weights, gradient and two moments read, three written, copies rounded
    rows.append(("AdamW, half of it", *[PARAMETERS * 30 / 2 / (BANDWIDTH * COPIES)] * 2))

    print(f"a micro-batch of {ROWS} x {LENGTH} tokens, {flop / 1e12:.2f} TFLOP\n")
    print("| | plain, ms | with fast kernels, ms |")
    print("|---|---|---|")
    for name, plain, fast in rows:
        print(f"| {name} | {1e3 * plain:.1f} | {1e3 * fast:.1f} |")
    totals = [sum(row[column] for row in rows) for column in (1, 2)]
    print("| **all** | " + " | ".join(f"**{1e3 * total:.0f}**" for total in totals) + " |")
    print("| tokens a second | " + " | ".join(f"{P / total:,.0f}" for total in totals) + " |")
    print("| of 125 TFLOP/s | " + " | ".join(f"{flop / total / PEAK:.1%}" for total in totals) + " |")


if __name__ == "__main__":
    main()
