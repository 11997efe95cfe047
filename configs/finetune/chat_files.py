"""Dialogues in your files, formatted with the chat template of the model's tokenizer.

python run.py --config=configs/finetune/chat_files.py --config.init_from=runs/gpt2

A line is {"messages": [{"role": "user", "content": "Hello"},
                        {"role": "assistant", "content": "Hello!"}]}

Set `rows` to the number of your lines; it determines the number of steps.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('chat_files', rows=10_000, context=1024)
