"""Tasks of lm_eval's three kinds in a folder: each a YAML file, and its documents as JSON lines beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ['cats', 'sat', 'the mat', 'and', 'ran', 'home', 'dogs', 'saw 7', 'it.', 'naïve', 'over']
NAMES = ('local_choices', 'local_rolling', 'local_written')


def text(number: int, length: int) -> str:
    return ' '.join(WORDS[k] for k in np.random.RandomState(number).randint(len(WORDS), size=length))


def questions(count: int = 12) -> list[dict[str, Any]]:
    """Some with choices of one token, some longer than a small context, one with an empty context."""
    return [
        {'question': '' if n == 3 else f'{text(n, 4 + 5 * n)}:{" " * (n % 2)}',
         'choices': [text(n + k, 1 + (k + n) % 3) for k in range(3)], 'answer': n % 3}
        for n in range(count)
    ]  # fmt: skip


def documents() -> list[dict[str, str]]:
    return [{'text': text(n, length)} for n, length in enumerate((3, 20, 150))]


def prompts() -> list[dict[str, str]]:
    return [{'question': text(n, 2 + 9 * n), 'answer': text(n, 2)} for n in range(6)]


TASKS: dict[str, tuple[Any, str]] = {
    'local_choices': (questions, """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""),
    'local_rolling': (documents, """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""),
    'local_written': (prompts, """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["e", "the"], max_gen_toks: 12, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""),
}  # fmt: skip


def write(folder: Path) -> Path:
    folder.mkdir()
    for name, (made, about) in TASKS.items():
        rows = folder / f'{name}.jsonl'
        rows.write_text(''.join(json.dumps(row) + '\n' for row in made()))
        head = f'task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n'
        (folder / f'{name}.yaml').write_text(head + about)
    return folder
