"""Which stretch of a text answers? Python's own documentation (gpt_jax/data/made/questions.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=512 --config.train.batch=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/questions.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('questions', context=512, steps=400)
    config.task.update(kind='answer', source='made:questions', references='answers[text]')
    config.task.update(prompt='{context}\n\nQuestion: {question}\nAnswer:', answer=' {answers[text][0]}')
    config.task.metrics = ('f1', 'exact_match')
    return config
