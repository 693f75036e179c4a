"""Exports killed again and again: each must end with the very weights of the export that was left alone.

    .venv/bin/python scripts/torture_merge.py                         # all of it
    .venv/bin/python scripts/torture_merge.py --kills 4 --every 5     # some of it

The tiny model of the tests in several files, trained once, then exported onto the dequantised base, the original one
and `auto`: undisturbed, then with SIGKILL at `--kills` random moments, shared over the three, and at every `--every`-th
create, rename and delete below the export's folder. After each kill the same command goes on. Until an export is
finished its folder has no manifest; compared are the bytes of weights, index, settings and fidelity.json. Any of these
operations that is not made by finetune.artifacts is told too. The machinery is torture_train.py's.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import torture_train
from torture_train import Place, Torture, make_place

TINY = (
    "train.max_steps=4 train.global_batch=4 train.micro_batch=4 export.force=true export.fp32_check=false "
    "export.max_kl_over_floor=1e6 export.max_top1_below_floor=1"
).split()
BASES = ("dequantised", "original", "auto")
COMPARED = ("model*.safetensors*", "config.json", "fidelity.json")
"""Not model.sig: a signature has a random part, and its own verification stands at each repeated export."""


def sharded(place: Place) -> Place:
    """The place with its model in several files."""
    from transformers import AutoModelForCausalLM

    folder = place.folder / "models/tiny_llama"
    network = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="60KB")
    return place


def main() -> int:
    """Torture, print, and say what was not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="random moments, over all three")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th operation; 0: at none")
    parser.add_argument("--only", nargs="*", choices=BASES, default=list(BASES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torture_train.RUNS.update({base: ("tiny", [*TINY, f"export.base={base}"]) for base in BASES})
    with tempfile.TemporaryDirectory() as folder:
        place = sharded(make_place(Path(folder)))
        torture = Torture(place, given.seed, "export", COMPARED)
        torture.prepare(given.only[:1])
        process = torture.start("train", torture_train.argv_of(given.only[0], place))
        process.join()
        if process.exitcode:
            raise SystemExit(torture.log.read_text()[-3000:])
        for index, base in enumerate(given.only):
            torture.run_alone(base)
            print(
                f"{base}: {torture.seconds[base]:.1f} s undisturbed, {len(torture.alone[base])} files",
                flush=True,
            )
            share = given.kills // len(given.only) + (index < given.kills % len(given.only))
            torture.kill_at_random(base, signal.SIGKILL, share)
            if given.every:
                count = torture.kill_at_operations(base, given.every)
                print(f"{count} operations in an export's folder, {base}")
        shutil.rmtree(place.folder / "artifacts")
    print("\n".join(torture.problems) or "every export ended with the weights of the undisturbed one")
    return 1 if torture.problems else 0


if __name__ == "__main__":
    sys.exit(main())
