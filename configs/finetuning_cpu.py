"""Three tasks at the ladder's sizes, from scratch, full and LoRA: 45 minutes on 2 cores.

python run.py --config=configs/pretrained_cpu.py
python run.py --config=configs/finetuning_cpu.py --launch=local --processes=2
"""

from ml_collections import ConfigDict

from configs import cpu, pretrained_cpu
from configs.finetune import by_size
from gpt_jax.scaling.plan import design


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'finetuning_cpu'
    config.model.context = pretrained_cpu.CONTEXT
    config.optimizer.final_lr_fraction = 0.0
    config.train.update(steps=150, eval_batch_size=16, tensorboard=False, keep_checkpoints=1)
    config.mesh.cpu_devices = 1  # one per worker; there is a worker for each core
    config.sweep.trials = design.make_grid({'seed': (0, 1)}, by_size.make_trials())
    return config
