"""Scoring labels and generating answers in batches beside one forward for each, on the demo's 135M base and rows.

    make prepare CONF=licences_smollm135m        # once
    .venv/bin/python scripts/bench_eval.py       # about 10 minutes on one core

Contestants take turns within a round, in one process of one thread; ratios are medians over the rounds, with their
range, of processor seconds: on a busy machine only these say what a quiet one takes. Labels are the most frequent ones
of the training rows. Prompts are the test rows alone, and behind five training rows with their answers. Against one
forward for each prompt and label (unpadded, head on the answer's positions only) the bar is 0.7 times as many labels;
beside it stands what the arithmetic allows at equal FLOP/s: tokens of the one, with the prompt again for each label, by
those of the other.

The prompt's share of the machine is that of a bf16 product (2048 x 4096 x 4096) timed before and after; counted are the
products of tokens that are no padding, attention and head left out. Generation stands beside transformers' `generate`
prompt by prompt. Answers may differ where the lead of the likeliest is below the noise: what padding to a batch alone
changes of it. Exit 1 where a bar is missed.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_quantised_base import ratio, resident_mib
from bench_train import PRODUCT
from machine import describe

from eval.label_scores import TREE_TOKENS, LabelSet, label_set, score_batch
from finetune import artifacts, base
from finetune.chat import render_answer
from finetune.config import load
from finetune.console import say
from finetune.generate import by_length, greedy_batch, inference, padded, positions_of
from finetune.model import Loaded, load_base, quantised_base
from finetune.rows import read_rows

SHARE_OF_LABELS, LEAST_PRODUCT, LEAST_GENERATION = 0.7, 0.6, 2.5
NEW_TOKENS, SHOTS = 16, 5
Prompts = list[list[int]]


@dataclass(frozen=True)
class Bench:
    """The base, rows of both sides, and the setting of the evaluation."""

    loaded: Loaded
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    batch_rows: int
    batch_tokens: int

    def prompts(self, count: int, shots: int) -> Prompts:
        """So many test prompts, spread evenly over their lengths, shortest first."""
        found = [self.loaded.renderer.prompt_ids(self._messages(row, shots)) for row in self.test]
        found.sort(key=len)
        return [found[(2 * place + 1) * len(found) // (2 * count)] for place in range(count)]

    def _messages(self, row: dict[str, Any], shots: int) -> list[dict[str, str]]:
        *system, question = row["messages"]
        examples = self.train[: shots * 7 : 7]
        return [*system, *(turn for example in examples for turn in _turns(example)), question]

    def labels(self, count: int) -> LabelSet:
        """The most frequent labels of the training rows."""
        names = Counter(row["target"] for row in self.train).most_common(count)
        return label_set([name for name, _ in names], self.loaded.renderer, self.test[0]["messages"])


def _turns(row: dict[str, Any]) -> list[dict[str, str]]:
    return [row["messages"][-1], {"role": "assistant", "content": render_answer(row["target"])}]


def open_bench() -> Bench:
    """The demo's base in 4 bits where that is kept, and its prepared rows."""
    run = load(["experiment=licences_smollm135m"])
    pinned = base.open_base(run)
    loaded = load_base(quantised_base(run.paths, run.model, pinned) or pinned, run.model, run.hardware)
    data = artifacts.open_last(run.paths, "data", run.data.name)
    sides = [read_rows(data.path(f"{side}.jsonl")) for side in ("train", "test")]
    return Bench(loaded, *sides, run.eval.batch_rows, run.eval.batch_tokens)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what came out."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def product_flops() -> float:
    """FLOP/s of a bf16 product on one thread, the best of three."""
    rows, inner, columns = PRODUCT
    left, right = torch.randn(rows, inner).bfloat16(), torch.randn(inner, columns).bfloat16()
    return 2 * rows * inner * columns / min(timed(lambda: left @ right)[0] for _ in range(3))


def scored(bench: Bench, prompts: Prompts, labels: LabelSet) -> list[list[float]]:
    """As an evaluation scores them, in its batches."""
    behind = max(len(tree.tokens) for tree in labels.trees(TREE_TOKENS))
    found: dict[int, list[float]] = {}
    for batch in by_length([len(ids) + behind for ids in prompts], bench.batch_rows, bench.batch_tokens):
        found.update(
            zip(batch, score_batch(bench.loaded, [prompts[i] for i in batch], labels, behind), strict=True)
        )
    return [found[index] for index in range(len(prompts))]


def one_by_one(bench: Bench, prompts: Prompts, labels: LabelSet) -> list[list[float]]:
    """A forward for each prompt and label."""

    def alone(prompt: list[int], ids: tuple[int, ...]) -> float:
        row = torch.tensor([[*prompt, *ids[:-1]]])
        out = bench.loaded.model(input_ids=row, use_cache=False, logits_to_keep=len(ids)).logits[0]
        return float(out.float().log_softmax(-1)[range(len(ids)), list(ids)].double().sum())

    with inference():
        return [[alone(prompt, ids) for ids in labels.ids] for prompt in prompts]


def leads(scores: Sequence[Sequence[float]]) -> list[float]:
    """By how much the likeliest label leads, in nats."""
    return [best - second for second, best in (sorted(row)[-2:] for row in scores)]


def compare_labels(bench: Bench, case: tuple[int, int], rounds: int, few: int) -> bool:
    """Speed against one forward for each prompt and label, and whether answers agree."""
    count, shots = case
    labels, prompts = bench.labels(count), bench.prompts(bench.batch_rows, shots)
    sample = bench.prompts(few, shots)
    fed = sum(len(tree.tokens) for tree in labels.trees(TREE_TOKENS))
    length, ends = statistics.mean(map(len, sample)), sum(len(ids) - 1 for ids in labels.ids)
    allowed = (count * length + ends) / (statistics.mean(map(len, prompts)) + fed)
    speeds: list[float] = []
    for _ in range(rounds):
        ours_s, _all = timed(lambda: scored(bench, prompts, labels))
        theirs_s, theirs = timed(lambda: one_by_one(bench, sample, labels))
        speeds.append(theirs_s / few / (ours_s / len(prompts)))
    ours, alone = scored(bench, sample, labels), [scored(bench, [prompt], labels)[0] for prompt in sample]
    noise = max(abs(a - b) for a, b in zip(leads(ours), leads(alone), strict=True))
    clear = [place for place, lead in enumerate(leads(theirs)) if lead > noise]
    same = sum(_best(ours[place]) == _best(theirs[place]) for place in clear)
    print(
        f"{count} labels of {ends / count + 1:.1f} tokens ({fed} fed), prompts of {length:.0f}: "
        f"{same}/{len(clear)} answers with a lead above the noise of {noise:.2f} nats are the same; "
        f"arithmetic allows {allowed:.1f}x, the bar is {SHARE_OF_LABELS * count:.1f}x"
    )
    middle = ratio("speed against one forward a label", speeds)
    print(f"  = {middle / count:.2f} x labels", flush=True)
    return middle >= SHARE_OF_LABELS * count and same == len(clear)


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=lambda label: scores[label])


def compare_prefill(bench: Bench, rounds: int) -> bool:
    """The prompt's share of what a bf16 product reaches."""
    shares = []
    everything = bench.prompts(len(bench.test), SHOTS)
    batches = by_length(list(map(len, everything)), bench.batch_rows, bench.batch_tokens)
    prompts = [everything[index] for index in batches[len(batches) // 2]]
    weights = sum(
        module.in_features * module.out_features
        for name, module in bench.loaded.model.named_modules()
        if hasattr(module, "in_features") and name != "lm_head"
    )
    ids, mask = padded(prompts, bench.loaded)
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions_of(mask),
        "logits_to_keep": 1,
    }
    for _ in range(rounds):
        before = product_flops()
        with inference():
            seconds, _ = timed(lambda: bench.loaded.model(**given))
        product = (before + product_flops()) / 2
        shares.append(2 * weights * sum(map(len, prompts)) / seconds / product)
    print(f"prompts of {sum(map(len, prompts))} tokens (may be {LEAST_PRODUCT} at least)")
    return ratio("share of the machine's bf16 product", shares) >= LEAST_PRODUCT


def generate(bench: Bench, prompts: Prompts) -> list[list[int]]:
    """transformers' own, prompt by prompt."""
    model = bench.loaded.model
    with torch.inference_mode():
        outs = [
            model.generate(torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False)
            for prompt in prompts
        ]
    return [out[0, len(prompt) :].tolist() for out, prompt in zip(outs, prompts, strict=True)]


def batched(bench: Bench, prompts: Prompts) -> list[list[int]]:
    """As an evaluation generates them; prompts are in order of length."""
    return [list(answer.ids) for answer in greedy_batch(bench.loaded, prompts, NEW_TOKENS)]


def compare_generation(bench: Bench, rounds: int) -> bool:
    """Speed against `generate` one prompt at a time."""
    prompts = bench.prompts(bench.batch_rows, 0)
    speeds: list[float] = []
    for _ in range(rounds):
        (theirs_s, theirs), (ours_s, ours) = (
            timed(lambda: generate(bench, prompts)),
            timed(lambda: batched(bench, prompts)),
        )
        speeds.append(theirs_s / ours_s)
    differ = [
        lead_at(bench, prompt, a, b) for prompt, a, b in zip(prompts, theirs, ours, strict=True) if a != b
    ]
    lengths = [len(ids) for ids in ours]
    print(
        f"{len(prompts)} prompts answered in {min(lengths)} to {max(lengths)} tokens: "
        f"{len(prompts) - len(differ)} equal; the others part where the likeliest token leads by "
        f"{max(differ, default=0):.3f} at most"
    )
    return ratio("speed against generate, one by one", speeds) >= LEAST_GENERATION


def lead_at(bench: Bench, prompt: list[int], a: list[int], b: list[int]) -> float:
    """The lead, in logits, of the likeliest token where two answers part."""
    place = next(place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    with inference():
        logits = bench.loaded.model(torch.tensor([prompt + a[:place]]), logits_to_keep=1).logits
    first, second = logits[0, -1].float().topk(2).values.tolist()
    return float(first - second)


def compare_memory(bench: Bench) -> bool:
    """Highest resident size, and the most positions a forward held, under two bounds."""
    labels, prompts = bench.labels(20), bench.prompts(bench.batch_rows, SHOTS)
    held: list[int] = []
    hook = bench.loaded.model.register_forward_pre_hook(
        lambda _, __, given: held.append(
            given["input_ids"].shape[0]
            * (given["input_ids"].shape[1] + given["past_key_values"].get_seq_length())
        ),
        with_kwargs=True,
    )
    kept = True
    for bound in (2048, 4096, 8192):
        held.clear()
        rest = resident_mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        scored(Bench(bench.loaded, bench.train, bench.test, 10**6, bound), prompts, labels)
        peak = resident_mib("VmHWM") - rest
        print(f"eval.batch_tokens={bound}: at most {max(held)} positions at once, {peak:.0f} MiB above rest")
        kept = kept and max(held) <= bound
    hook.remove()
    return kept


def main() -> int:
    """Measure, print, compare with the bars."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--few", type=int, default=3, help="prompts that are scored label by label")
    options.add_argument(
        "--labels", type=int, nargs="*", default=[8, 20, 77], help="how many; none: leave it out"
    )
    options.add_argument("--shots", type=int, nargs="*", default=[0, SHOTS], help="examples in the prompt")
    options.add_argument("--labels-only", action="store_true", help="leave out all but the labels")
    given = options.parse_args()
    torch.set_num_threads(1)
    bench = open_bench()
    say(f"{describe()}; load average {os.getloadavg()[0]:.1f}")
    passed = []
    if not given.labels_only:
        passed += [compare_memory(bench), compare_prefill(bench, given.rounds)]
        passed.append(compare_generation(bench, given.rounds))
    for shots, count in itertools.product(given.shots, given.labels):
        passed.append(compare_labels(bench, (count, shots), given.rounds, given.few))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
