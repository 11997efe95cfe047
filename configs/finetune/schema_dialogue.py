"""Service dialogues between user and assistant: Schema-Guided Dialogue (Rastogi et al. 2020).

python run.py --config=configs/finetune/schema_dialogue.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('schema_dialogue', rows=16_142, context=512)
