"""What does the assistant say next? Dialogues in files of yours, in the chat template of the weights' tokenizer.

python run.py --config=configs/finetune/chat_files.py --config.init_from=runs/gpt2

A line is {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]}. `rows`, of
which the steps are reckoned, are to be yours.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('chat_files', rows=10_000, context=1024)
    config.task.update(kind='answer', source='files:dialogues/*.jsonl', messages='messages', chat=True)
    return config
