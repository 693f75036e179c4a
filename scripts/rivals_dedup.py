"""One deduplication of a JSONL file by one contestant, in this process and at most one more.

    python scripts/rivals_dedup.py text_dedup rows.jsonl scratch/     # bench_prepare.py does this

Writes the component of every row to `components.npy` and prints the seconds as JSON. The clock starts after the
imports and stops when the components are known. In it: reading the rows, splitting words, signatures, buckets
or candidates, clusters, and for us the exact comparison of every candidate, which the others leave out. Not in
it: starting Python, writing what is left of the rows, and for datatrove cutting its input into two files,
without which it uses one process.

All compare 5-word shingles at 0.7. The others get 128 permutations in 16 bands of 8, whose threshold,
(1/16)^(1/8), is 0.71; datatrove's own default is 14 of 8, text-dedup's own choice for 128 and 0.7 is 14 of 9.
Ours has no permutations: it finds every pair at the threshold. datatrove runs twice: as it comes, with spaCy's
word splitter, and with `str.split` in its place, which its interface allows. text-dedup gets xxh3, the faster of
its two hash functions.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROCESSES, SHINGLE, JACCARD, BANDS, BAND_ROWS = 2, 5, 0.7, 16, 8
BATCH = 1000
Contestant = Callable[[Path, Path], tuple[float, list[int]]]


def ours(rows: Path, scratch: Path) -> tuple[float, list[int]]:
    """Seconds and components of data_prep."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from data_prep.duplicates import component_labels, near_edges
    from data_prep.parallel import mapped
    from data_prep.spill import Spill
    from finetune.config.data import NearDuplicateConfig

    started = time.monotonic()
    spill, sizes = Spill(scratch / "shingles"), np.empty(0, np.int64)
    with rows.open() as stream:
        for numbers, counts in mapped(_shingles, _batches(stream), PROCESSES):
            first = len(sizes)
            sizes = np.concatenate((sizes, counts))
            spill.add(numbers, np.repeat(np.arange(first, len(sizes), dtype=np.uint32), counts))
    kept = np.ones(len(sizes), dtype=bool)
    edges = near_edges(spill, sizes, kept, NearDuplicateConfig(SHINGLE, JACCARD))
    components = component_labels(edges, len(sizes)).tolist()
    return time.monotonic() - started, components


def _batches(lines: Iterator[str]) -> Iterator[list[str]]:
    return iter(lambda: list(islice(lines, BATCH)), [])


def _shingles(lines: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    from data_prep.shingles import shingles

    numbers, ends = shingles([json.loads(line)["text"] for line in lines], SHINGLE)
    return numbers, np.diff(ends, prepend=0)


def text_dedup(rows: Path, scratch: Path) -> tuple[float, list[int]]:
    """Seconds and components of text-dedup: its timers of loading, hashing and clustering."""
    from text_dedup import minhash  # type: ignore[import-not-found]
    from text_dedup.utils import IOArgs, MetaArgs, MinHashArgs, Timer  # type: ignore[import-not-found]

    timer = Timer()
    minhash.Timer = lambda: timer  # it keeps its own to itself
    minhash.main.callback(
        io_args=IOArgs(
            path="json",
            data_files=str(rows),
            split="train",
            cache_dir=str(scratch / "cache"),
            output=str(scratch / "kept"),
            num_proc=PROCESSES,
        ),
        meta_args=MetaArgs(column="text"),
        minhash_args=MinHashArgs(
            ngram=SHINGLE,
            num_perm=BANDS * BAND_ROWS,
            threshold=JACCARD,
            b=BANDS,
            r=BAND_ROWS,
            hash_func="xxh3",
        ),
    )
    seconds = sum(timer.elapsed_times[part] for part in ("Loading", "MinHashing", "Clustering"))
    return seconds, [minhash.uf.find(row) for row in range(_lines(rows))]


def datatrove(rows: Path, scratch: Path) -> tuple[float, list[int]]:
    """Seconds and components of datatrove with its default word splitter."""
    return _datatrove(rows, scratch, "eng")


def datatrove_split(rows: Path, scratch: Path) -> tuple[float, list[int]]:
    """Seconds and components of datatrove with `str.split` as its word splitter."""
    from datatrove.utils.word_tokenizers import WhitespaceTokenizer  # type: ignore[import-not-found]

    class Split(WhitespaceTokenizer):  # type: ignore[misc]
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    return _datatrove(rows, scratch, Split())


def _datatrove(rows: Path, scratch: Path, words: Any) -> tuple[float, list[int]]:
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
    from datatrove.pipeline.dedup import minhash  # type: ignore[import-not-found]
    from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]

    shards, signatures, buckets, clusters = (
        str(scratch / part) for part in ("in", "sign", "bucket", "cluster")
    )
    lines = _shards(rows, Path(shards))
    config = minhash.MinhashConfig(n_grams=SHINGLE, num_buckets=BANDS, hashes_per_bucket=BAND_ROWS)
    steps = [
        (
            PROCESSES,
            [JsonlReader(shards), minhash.MinhashDedupSignature(signatures, config=config, language=words)],
        ),
        (BANDS, [minhash.MinhashDedupBuckets(signatures, buckets, config=config)]),
        (1, [minhash.MinhashDedupCluster(buckets, clusters, config=config, save_cluster_id=True)]),
    ]
    started = time.monotonic()
    for number, (tasks, pipeline) in enumerate(steps):
        logs = str(scratch / f"logs{number}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(PROCESSES, tasks), logging_dir=logs).run()
    seconds = time.monotonic() - started
    components = np.arange(sum(lines))
    for shard, first in enumerate(np.cumsum([0, *lines[:-1]])):
        found = np.fromfile(Path(clusters) / f"{shard:06d}.clusters", np.uint32).reshape(-1, 2)
        components[first + found[:, 0]] = sum(lines) + found[:, 1]
    return seconds, components.tolist()


def _shards(rows: Path, folder: Path) -> list[int]:
    """Cut the rows into a file a process; how many rows each has."""
    folder.mkdir()
    total = _lines(rows)
    sizes = [total * (part + 1) // PROCESSES - total * part // PROCESSES for part in range(PROCESSES)]
    with rows.open() as stream:
        for part, size in enumerate(sizes):
            with (folder / f"{part:05d}.jsonl").open("w") as shard:
                shard.writelines(next(stream) for _ in range(size))
    return sizes


def _lines(rows: Path) -> int:
    with rows.open("rb") as stream:
        return sum(1 for _ in stream)


CONTESTANTS: dict[str, Contestant] = {
    "ours": ours,
    "datatrove": datatrove,
    "datatrove_split": datatrove_split,
    "text_dedup": text_dedup,
}


def main(name: str, rows: Path, scratch: Path) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "huggingface")}
    seconds, components = CONTESTANTS[name](rows, scratch)
    np.save(scratch / "components.npy", components)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
