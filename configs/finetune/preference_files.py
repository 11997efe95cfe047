"""Preferences in your files, as in HH-RLHF (Bai et al. 2022), trained with DPO.

python run.py --config=configs/finetune/preference_files.py --config.init_from=runs/gpt2

A line is {"prompt": "\\n\\nHuman: Hi\\n\\nAssistant:",
           "chosen": " Hello!", "rejected": " Go away."}

"prompt" is the part that both dialogues share. TFDS does not have HH-RLHF.
Set `rows` to the number of your lines; it determines the number of steps.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.make_config('preference_files', rows=40_000, context=512, epochs=1)
    config.optimizer.learning_rate = 1e-6
    return config
