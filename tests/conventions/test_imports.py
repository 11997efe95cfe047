"""Pre-training imports a small part of the library: no tasks, no inference, no interop."""

import subprocess
import sys

MAX_MODULES = 90  # packages included
# Packages that only tasks, sweeps, fine-tuning from pretrained weights and other commands need.
OTHER_PACKAGES = {'cli', 'evaluation', 'inference', 'interop', 'launch', 'preflight'}
OTHER_PACKAGES |= {'scaling', 'sweep', 'tasks'}


def list_modules(statement):
    """List the modules of gpt_jax that a statement imports, in a new process."""
    code = f'{statement}; import sys; print(*[m for m in sys.modules if m.startswith("gpt_jax")])'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_trainer_imports_few_modules_and_only_those_of_pretraining():
    modules = list_modules('import gpt_jax.trainer.trainer')
    assert len(modules) <= MAX_MODULES, sorted(modules)
    packages = {module.split('.')[1] for module in modules if '.' in module}
    assert not packages & OTHER_PACKAGES


def test_text_dataset_is_loaded_without_the_tasks(tmp_path):
    """Loading plain text imports no task code either."""
    (tmp_path / 'text.txt').write_text('to be or not to be ' * 500)
    modules = list_modules(
        'from gpt_jax.core.config import default_config\n'
        'from gpt_jax.trainer.dataset import load_dataset\n'
        'config = default_config()\n'
        f'config["data"] |= {{"source": "files:{tmp_path}/text.txt", "holdout": "tail"}}\n'
        'load_dataset(config, print)'
    )
    assert not [module for module in modules if module.startswith('gpt_jax.tasks')]
