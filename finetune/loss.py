"""The loss head scores trained positions only, on every device."""


def score_trained_positions_only() -> None:
    """Make TRL's fused head skip masked positions on CPU as it does on CUDA.

    TRL 1.16 computes the head on every position where Triton is missing: on completion-only data most of
    it is thrown away. The switch selects TRL's own compacted path, loss and gradient unchanged
    (trl/trainer/utils.py:1642).
    """
    import trl.trainer.utils

    trl.trainer.utils._use_triton = lambda device: True
