"""The errors a user can cause or meet, each with the exit code of its kind."""

from collections.abc import Sequence

EXIT_BUG = 1
EXIT_PREEMPTED = 75
EXIT_STOPPED = 130


class HallmarkError(Exception):
    """A problem a person can fix: one line each in `problems`, never private text."""

    exit_code = EXIT_BUG

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(HallmarkError):
    """A wrong command or setting; also an input that is stale, unfinished or of another base."""

    exit_code = 2


class RefusedError(HallmarkError):
    """A gate said no: leak, data budget, evaluation verdict, fidelity, licence."""

    exit_code = 3


class DataError(HallmarkError):
    """Bad input data or a damaged artifact. Names file, line, field; never the content."""

    exit_code = 4


class MachineError(HallmarkError):
    """The machine cannot do it: disk, memory, device, missing package, folder in use."""

    exit_code = 5


class PreemptedError(HallmarkError):
    """Stopped by a signal with everything saved: the same command goes on."""

    exit_code = EXIT_PREEMPTED
