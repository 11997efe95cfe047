"""Which numbers make a run: how much at once, how long, how often to look?"""

from dataclasses import dataclass

from gpt_jax import schema

WEIGHTS = ('float32', 'bfloat16', 'int8', 'int4')  # how matrices are kept while writing: gpt_jax/inference.py does it


@dataclass(frozen=True)
class TrainConfig:
    """Defaults and meanings stand in configs/base.py."""

    batch: int
    microbatch: int
    steps: int
    tokens: int
    flops: float
    log_every: int
    evaluate_every: int
    evaluate_tokens: int
    evaluate_batch: int
    checkpoint_every: int
    keep_checkpoints: int
    patience: int
    keep_best: bool
    keep_steps: tuple[int, ...]
    branch_from: str
    branch_step: int
    max_skipped_in_row: int
    tensorboard: bool
    stall_minutes: float

    def __post_init__(self) -> None:
        for name in ('batch', 'log_every', 'keep_checkpoints', 'max_skipped_in_row'):
            schema.require(getattr(self, name) > 0, f'train.{name}', f'must be positive, got {getattr(self, name)}')
        for name in ('microbatch', 'steps', 'tokens', 'flops', 'evaluate_every', 'evaluate_tokens', 'evaluate_batch',
                     'checkpoint_every', 'patience'):  # fmt: skip
            schema.require(
                getattr(self, name) >= 0, f'train.{name}', f'must not be negative, got {getattr(self, name)}'
            )
        schema.require(
            not self.patience or self.evaluate_every > 0, 'train.patience', 'counts validations; set evaluate_every too'
        )
        schema.require(self.stall_minutes >= 0, 'train.stall_minutes', 'must be 0 (never) or positive')
        schema.require(
            self.steps > 0 or self.tokens > 0 or self.flops > 0,
            'train.tokens',
            'steps, tokens and flops are all 0; set one',
        )
        schema.require(
            all(isinstance(step, int) and step > 0 for step in self.keep_steps),
            'train.keep_steps',
            f'wants positive whole numbers, got {self.keep_steps}',
        )
        schema.require(
            (self.branch_step > 0) == bool(self.branch_from),
            'train.branch_step',
            'branch_from and branch_step (positive) go together',
        )

    @property
    def evaluation_batch(self) -> int:
        return self.evaluate_batch or self.batch

    @property
    def budgeted(self) -> bool:
        """Whether the run's length follows from its FLOPs."""
        return not self.steps and not self.tokens

    def total_steps(self, context: int, flops_per_token: int) -> int:
        """`steps`, or as many as see at least `tokens` tokens, or as many as come nearest to `flops`."""
        per_step = self.batch * context
        if not self.budgeted:
            return self.steps or -(-self.tokens // per_step)
        return max(1, round(self.flops / (flops_per_token * per_step)))

    def microbatches(self, devices: int) -> int:
        """Into how many parts a device's share of the batch is cut.

        Raises:
          UserError: `microbatch` does not divide that share.
        """
        share = self.batch // devices
        size = min(self.microbatch or share, share)
        schema.require(
            share % size == 0, 'train.microbatch', f'{size} does not divide the {share} sequences of one device'
        )
        return share // size


@dataclass(frozen=True)
class BenchmarkConfig:
    """Defaults and meanings stand in configs/base.py."""

    steps: int
    warmup: int
    peak_flops: float
    prompt: int
    new_tokens: int
    batches: tuple[int, ...]
    weights: str

    def __post_init__(self) -> None:
        for name in ('steps', 'new_tokens'):
            schema.require(
                getattr(self, name) >= 0,
                f'benchmark.{name}',
                f'must be 0 (none) or positive, got {getattr(self, name)}',
            )
        for name in ('warmup', 'prompt'):
            schema.require(getattr(self, name) > 0, f'benchmark.{name}', f'must be positive, got {getattr(self, name)}')
        good = self.batches and all(isinstance(size, int) and size > 0 for size in self.batches)
        schema.require(bool(good), 'benchmark.batches', f'wants positive whole numbers, got {self.batches}')
        schema.require(self.steps > 0 or self.new_tokens > 0, 'benchmark', 'steps and new_tokens are both 0; set one')
        schema.require(self.peak_flops >= 0, 'benchmark.peak_flops', 'must be 0 (automatic) or positive')
        schema.choice(self.weights, WEIGHTS, 'benchmark.weights')
