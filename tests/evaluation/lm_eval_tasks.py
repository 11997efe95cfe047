"""Local lm_eval tasks of all three request types: YAML files with documents as JSON lines."""

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ['cats', 'sat', 'the mat', 'and', 'ran', 'home', 'dogs', 'saw 7', 'it.', 'naïve', 'over']
NAMES = ('local_choices', 'local_rolling', 'local_written')


def make_text(seed: int, length: int) -> str:
    indices = np.random.RandomState(seed).randint(len(WORDS), size=length)
    return ' '.join(WORDS[index] for index in indices)


def make_questions(count: int = 12) -> list[dict[str, Any]]:
    """Some have choices of one token, some exceed a small context, one has an empty context."""
    return [
        {
            'question': '' if n == 3 else f'{make_text(n, 4 + 5 * n)}:{" " * (n % 2)}',
            'choices': [make_text(n + k, 1 + (k + n) % 3) for k in range(3)],
            'answer': n % 3,
        }
        for n in range(count)
    ]


def make_documents() -> list[dict[str, str]]:
    return [{'text': make_text(n, length)} for n, length in enumerate((3, 20, 150))]


def make_prompts() -> list[dict[str, str]]:
    return [{'question': make_text(n, 2 + 9 * n), 'answer': make_text(n, 2)} for n in range(6)]


TASKS: dict[str, tuple[Any, str]] = {
    'local_choices': (
        make_questions,
        """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    ),
    'local_rolling': (
        make_documents,
        """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    ),
    'local_written': (
        make_prompts,
        """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["e", "the"], max_gen_toks: 12, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    ),
}


def write_tasks(folder: Path) -> Path:
    folder.mkdir()
    for name, (make_rows, yaml) in TASKS.items():
        path = folder / f'{name}.jsonl'
        path.write_text(''.join(json.dumps(row) + '\n' for row in make_rows()))
        head = [
            f'task: {name}',
            'dataset_path: json',
            f'dataset_kwargs: {{data_files: {{test: {path}}}}}',
            'test_split: test',
        ]
        (folder / f'{name}.yaml').write_text('\n'.join(head) + '\n' + yaml)
    return folder
