"""One comparison in sentences that a reader without statistics can follow."""

from collections.abc import Iterator
from dataclasses import dataclass

from eval import stats
from eval.comparison import Comparison
from finetune.config.eval import EvalConfig


@dataclass(frozen=True)
class Words:
    """What can be said of a comparison."""

    item: Comparison
    config: EvalConfig
    explained: str
    """The metric in plain words."""
    percent: bool
    """Whether its values are shares of 1, told in percent and points."""

    def sentences(self) -> Iterator[str]:
        """What was compared, the verdict, and what it rests on."""
        item = self.item
        yield f"{item.b} against {item.a} on {item.metric}, {self.explained}, over the same {item.n} rows."
        if item.value_a is not None and item.value_b is not None:
            yield f"{item.a} reaches {self._value(item.value_a)}, {item.b} {self._value(item.value_b)}."
        yield f"Verdict: {item.verdict}. {self._reason()}"
        yield (
            f"The difference is {self._gap(item.delta)}; the {100 * self.config.confidence:g} % interval runs from "
            f"{self._gap(item.ci_low)} to {self._gap(item.ci_high)}."
        )
        yield (
            f"Were neither better, a difference this large would come up in {_odds(item.p)} test sets like this one "
            f"(p = {item.p:.2g}, {item.test})."
        )
        yield (
            f"The rows form {item.n_groups} groups, which carry as much as {item.effective_groups:.0f} of equal size: "
            "rows of one group resemble each other and count together."
        )
        yield self._resolution()
        yield from self._margin()
        yield from self._seeds()

    def _reason(self) -> str:
        item = self.item
        least = f" by more than {self._gap(self.config.min_gain)}" if self.config.min_gain else ""
        if item.verdict == stats.BETTER:
            return f"{item.b} is better than {item.a}{least}, beyond what chance explains."
        if item.verdict == stats.WORSE:
            return f"{item.b} is worse than {item.a}, beyond what chance explains."
        if item.n_groups < stats.MIN_GROUPS:
            return (
                f"{item.n_groups} groups are too few for any verdict; at least {stats.MIN_GROUPS} are needed."
            )
        if item.effective_groups < stats.MIN_EFFECTIVE_GROUPS:
            return "A few groups hold most of the rows, too uneven for any verdict; add groups."
        return f"These rows show neither that {item.b} is better{least} nor that it is worse."

    def _resolution(self) -> str:
        if self.item.mde is None:
            return "Which gain such a test set would show cannot be told from these groups."
        return (
            f"A true gain of {self._gap(self.item.mde)} would come out better in 4 of 5 test sets like this one; "
            "a smaller one is often missed."
        )

    def _margin(self) -> Iterator[str]:
        if self.item.margin is not None:
            said = "excluded" if self.item.not_inferior else "not excluded"
            yield f"A loss of {self._gap(self.item.margin).removeprefix('+')} or more is {said}."

    def _seeds(self) -> Iterator[str]:
        if self.item.seed_sd is not None:
            spread = self._gap(self.item.seed_sd).removeprefix("+")
            yield (
                f"Over {self.item.seeds} training seeds the difference has a standard deviation of {spread}; the "
                "interval does not hold that luck."
            )

    def _value(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.percent else f"{value:.4g}"

    def _gap(self, value: float) -> str:
        return f"{round(100 * value, 1) + 0.0:+.1f} points" if self.percent else f"{value + 0.0:+.4g}"


def _odds(p: float) -> str:
    for count, said in ((10, "10"), (100, "100"), (1000, "1,000")):
        if p * count >= 1:
            return f"{p * count:.0f} of {said}"
    return "fewer than 1 of 1,000"
