"""Trials of configs/finetuning_cpu.py: tasks, fine-tuning methods and model sizes."""

from typing import Any

from configs import cpu, ladder_cpu, pretrained_cpu
from gpt_jax.scaling.plan import design
from gpt_jax.tasks import catalog

# Tasks and their overrides. Translation is into an artificial language, of which a model learns a
# measurable amount even in so few steps.
TASKS = {
    'entities': {},
    'roles': {},
    'translation': {'task.source': 'synthetic:grammar', 'task.eval_generations': 50},
}
METHODS: dict[str, dict[str, Any]] = {
    'scratch': {},
    'full': {},
    'adapters': {'finetune.rank': 8, 'finetune.alpha': 16.0, 'finetune.targets': ('all-linear',)},
}
# Relative to the pre-training learning rate at this width: pre-trained weights need smaller steps,
# adapters larger ones.
LEARNING_RATE_FACTORS = {'scratch': 1.0, 'full': 0.5, 'adapters': 2.0}


def make_trials() -> tuple[design.Trial, ...]:
    """Return one trial per combination of task, method and size."""
    return tuple(
        make_trial(task, method, size)
        for task in TASKS
        for method in METHODS
        for size in ladder_cpu.SIZES
    )


def make_trial(task: str, method: str, size: design.Size) -> design.Trial:
    """Return the config fields of a trial: a task, a fine-tuning method and a model size."""
    (size_fields,) = design.make_ladder((size,), cpu.rule)
    task_fields = {f'task.{name}': value for name, value in catalog.task_section(task).items()}
    pretrained = f'runs/{pretrained_cpu.get_config().name}/trials/{size_fields["name"]}'
    learning_rate = LEARNING_RATE_FACTORS[method] * size_fields['optimizer.learning_rate']
    return {
        **size_fields,
        **task_fields,
        **TASKS[task],
        **METHODS[method],
        'name': f'{task}-{method}-{size_fields["name"]}',
        'init_from': '' if method == 'scratch' else pretrained,
        'optimizer.learning_rate': round(learning_rate, 6),
    }
