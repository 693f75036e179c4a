"""A configuration's step on its hardware: memory, verdict and speed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.config import RunConfig
from finetune.dataset import TrainingRows
from finetune.plan.device import DeviceMemory, Verdict, device_memory
from finetune.plan.request import Workload, measured_workload, settings_of
from finetune.plan.settings import Settings
from finetune.plan.simulate import Simulation, simulate
from finetune.plan.speed import Speed, step_speed


@dataclass
class Prediction:
    """What a configuration needs and how fast it runs."""

    settings: Settings
    work: Workload
    simulation: Simulation
    device: DeviceMemory
    speed: Speed | None

    @property
    def fits(self) -> bool:
        """Whether it fits with room to spare."""
        return self.device.verdict is Verdict.fits

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of rows, padding aside, a second; None where the hardware record has no rates."""
        if self.speed is None:
            return None
        useful = self.work.tokens / self.work.padded if self.work.tokens and self.work.padded else 1.0
        return self.speed.tokens_per_s * useful


@dataclass
class Planner:
    """Predicts variations of one run; what it needs crosses to other processes.

    `rows` are the encoded training rows where they are known: other micro-batches find other longest ones.
    """

    architecture: Mapping[str, Any]
    work: Workload
    rows: TrainingRows | None = None

    def __call__(self, run: RunConfig) -> Prediction:
        """The step of a configuration, from shallow copies of its model."""
        from finetune.model import prepare_libraries

        prepare_libraries()
        work = self.workload(run)
        settings = settings_of(run, self.architecture, work)
        return predicted(run, settings, work, simulate(settings))

    def workload(self, run: RunConfig) -> Workload:
        """The tokens of a variation."""
        if self.rows is not None:
            return measured_workload(self.rows, run.train)
        longest = min(self.work.longest, run.train.max_tokens)
        return replace(self.work, longest=longest, row_tokens=longest)


def predicted(run: RunConfig, settings: Settings, work: Workload, simulation: Simulation) -> Prediction:
    """A simulated step on the configured hardware."""
    device = device_memory(simulation.peak.total, simulation.paged, settings, run.hardware)
    accumulation = max(1, run.train.global_batch // (run.train.micro_batch * run.plan.gpus))
    speed = step_speed(simulation, settings, run.hardware, accumulation)
    return Prediction(settings, work, simulation, device, speed)
