"""Three tasks on the ladder's sizes: untrained, pre-trained, with adapters alone; two seeds. 45 minutes, two cores.

python run.py --config=configs/pretrained_cpu.py
python run.py --config=configs/finetuning_cpu.py --launch=local --processes=2
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu, pretrained_cpu
from configs.finetune.by_size import WAYS, trial
from gpt_jax.scaling.plan import design

# Of translation, into a made language: what can be learned of it in so few steps shows.
TASKS = {'entities': {}, 'roles': {}, 'translation': {'task.source': 'made:grammar', 'task.written': 50}}


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'finetuning_cpu'
    config.model.context = pretrained_cpu.CONTEXT
    config.optimizer.final_fraction = 0.0
    config.train.update(steps=150, evaluate_batch=16, tensorboard=False, keep_checkpoints=1)
    config.mesh.cpu_devices = 1  # a worker for each core
    trials = [trial(task, TASKS[task], way, size) for task in TASKS for way in WAYS for size in ladder_cpu.SIZES]
    config.sweep.trials = design.grid({'seed': (0, 1)}, tuple(trials))
    return config
