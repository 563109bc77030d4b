"""The products of matrices in a step of P-tuning, by themselves: how far they allow, on TensorFlow.

    python benchmarks/products.py --batch-size 32

Counted are those that keras_ptuning makes for a BERT-base, 137 tokens a text, of which 15% are
masked: forward, and the gradients of what goes in, since the weights are frozen. The last block
has queries and feed-forward at the masks alone. Attention's own and the head are float32.
"""

import argparse
import statistics
import time

import tensorflow as tf

LENGTH, HEADS, SIZE, BLOCKS, VOCABULARY = 137, 12, 768, 12, 21128


def products(batch_size, dtype):
    """By name: the product, its FLOP, how often a step has it forward, and forward and back."""
    rows, masks = batch_size * LENGTH, batch_size * (1 + int(0.15 * 128))
    attended = [batch_size, HEADS, LENGTH]

    def product(a, b, forward, both, dtype=dtype, transpose_b=False):
        x = tf.cast(tf.random.normal(a), dtype)
        y = tf.cast(tf.random.normal(b), dtype)
        # Arguments: what a graph captures could be folded.
        run = tf.function(lambda x, y: tf.matmul(x, y, transpose_b=transpose_b))
        columns = b[-2] if transpose_b else b[-1]
        flop = 2 * columns * tf.size(x, tf.int64).numpy()
        return lambda: run(x, y), flop, forward, both

    whole = BLOCKS - 1
    projections, heads = 4 * whole + 2, [*attended, SIZE // HEADS]
    return {
        "projection": product([rows, SIZE], [SIZE, SIZE], projections, 2 * projections),
        "feed-forward, in": product([rows, SIZE], [SIZE, 4 * SIZE], whole, 2 * whole),
        "feed-forward, out": product([rows, 4 * SIZE], [4 * SIZE, SIZE], whole, 2 * whole),
        "projection, masks": product([masks, SIZE], [SIZE, SIZE], 3, 6),
        "feed-forward, in, masks": product([masks, SIZE], [SIZE, 4 * SIZE], 1, 2),
        "feed-forward, out, masks": product([masks, 4 * SIZE], [4 * SIZE, SIZE], 1, 2),
        "scores": product(heads, heads, whole, 2 * whole, "float32", True),
        "weighted values": product([*attended, LENGTH], heads, whole, 4 * whole, "float32"),
        "head": product([masks, SIZE], [VOCABULARY, SIZE], 1, 1, "float32", True),
        "head, back": product([masks, VOCABULARY], [VOCABULARY, SIZE], 0, 1, "float32"),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch")
    parser.add_argument(
        "--repeats", type=int, default=9, help="repetitions, of which the median counts"
    )
    options = parser.parse_args()
    work = {dtype: products(options.batch_size, dtype) for dtype in ("float32", "bfloat16")}
    seconds = {dtype: {name: [] for name in found} for dtype, found in work.items()}
    for turn in range(options.repeats + 1):
        for dtype, found in work.items():
            for name, (run, *_) in found.items():
                begin = time.perf_counter()
                run()
                if turn:  # The first one traces.
                    seconds[dtype][name].append(time.perf_counter() - begin)
    for dtype, found in work.items():
        medians = {name: statistics.median(turns) for name, turns in seconds[dtype].items()}
        print(f"{dtype}: ms, GFLOP/s")
        for name, (_, flop, *_) in found.items():
            print(f"  {name}: {medians[name] * 1e3:.1f}, {flop / medians[name] / 1e9:.0f}")
        forward, both = (sum(medians[n] * p[i] for n, p in found.items()) for i in (2, 3))
        print(f"  forward {forward:.2f} s, forward and back {both:.2f} s")


if __name__ == "__main__":
    main()
