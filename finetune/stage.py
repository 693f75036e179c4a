"""What every entry point shares: compose, run, say what comes next, and the right exit code."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from finetune import audit
from finetune.artifacts import Artifact
from finetune.config import RunConfig, load
from finetune.console import complain, quiet_libraries, say
from finetune.errors import EXIT_STOPPED, HallmarkError, MachineError, PreemptedError, RefusedError

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_ERROR_REPORTING": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
NEXT = {
    "fetch-base": "prepare",
    "quantise-base": "train",
    "prepare": "plan",
    "plan": "train",
    "preflight": "train",
    "train": "eval",
    "eval": "export",
    "export": "",
}


def stage(name: str, body: Callable[[RunConfig], Artifact | None], argv: Sequence[str]) -> int:
    """Compose the configuration, run one stage, say what it made, if anything, and what comes next; its exit code."""

    def work() -> None:
        run = load(argv)
        say(f"{name} {run.name}: model {run.model.name}, data {run.data.name}, hardware {run.hardware.name}")
        with _own_name(run.name):
            artifact = _audited(name, body, run)
        if artifact is None:
            return
        say(f"{name}: {artifact.folder}")
        if NEXT.get(name):
            say(f"next: make {NEXT[name]} CONF={run.name}{_same_run(name, run, artifact)}")

    return guarded(work)


def _audited(name: str, body: Callable[[RunConfig], Artifact | None], run: RunConfig) -> Artifact | None:
    """What the stage returns, with an entry in the audit trail for it, or for its refusal."""
    audit.read_trail(run.paths, run.name)  # a damaged trail stops the stage before its work, not after
    since = time.time()
    try:
        artifact = body(run)
    except RefusedError as refused:
        audit.record_refused(run, name, refused.problems, since)
        raise
    if artifact is not None:
        audit.record_finished(run, artifact, since)
    return artifact


def guarded(work: Callable[[], None]) -> int:
    """Run something offline and privately; its exit code (design: exit codes), one line a problem on stderr."""
    os.environ.update({key: os.environ.get(key, value) for key, value in OFFLINE.items()})
    quiet_libraries()
    os.umask(0o077)  # private data: every file and folder is the user's alone
    try:
        with _machine_errors():
            work()
    except PreemptedError as stop:
        complain(str(stop))
        return stop.exit_code
    except HallmarkError as error:
        for problem in error.problems:
            complain(f"error: {problem}")
        return error.exit_code
    except KeyboardInterrupt:
        complain("stopped; the same command starts again")
        return EXIT_STOPPED
    return 0


@contextmanager
def _own_name(name: str) -> Iterator[None]:
    """Advice such as `make prepare CONF=…` with the experiment that the person gave."""
    try:
        yield
    except HallmarkError as error:
        error.problems = [problem.replace("CONF=…", f"CONF={name}") for problem in error.problems]
        raise


def _same_run(name: str, run: RunConfig, artifact: Artifact) -> str:
    """` RUN=…` where the stage was told its input, so that the next command goes on with this line of runs."""
    if run.run is None:
        return ""
    return f" RUN={artifact.folder.name if name == 'train' else run.run}"


# safetensors and torch report a full disk as errors of their own, not as OSError
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
FULL_DISK = ("No space left on device", "os error 28")
ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "it is read-only",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f)",
    errno.EIO: "check the disk",
}


@contextmanager
def _machine_errors() -> Iterator[None]:
    """What the machine refuses, as MachineError; what is a bug of ours, as it is."""
    try:
        yield
    except HallmarkError:
        raise
    except MemoryError:
        raise MachineError("out of memory; close other programs or lower the batch sizes") from None
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if any(sign in str(error) for sign in FULL_DISK):
            code = errno.ENOSPC
        if NO_MEMORY in str(error):
            raise MachineError("out of memory; close other programs or lower the batch sizes") from None
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which must not be imported here
            raise MachineError("out of GPU memory; lower train.micro_batch or eval.batch_rows") from None
        if code not in ADVICE:
            raise
        where = getattr(error, "filename", None) or "the disk"
        raise MachineError(
            f"{where}: {os.strerror(code)}; {ADVICE[code]}, or set ARTIFACTS_ROOT to another folder"
        ) from None
