"""What does the assistant say next? Schema-guided dialogue (Rastogi et al. 2020), user and assistant in turn.

python run.py --config=configs/finetune/schema_dialogue.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('schema_dialogue', rows=16_142, context=512)
    config.task.update(kind='answer', source='tfds:schema_guided_dialogue', messages='utterances')
    config.task.metrics = ('bleu', 'f1')
    return config
