"""How does lm-evaluation-harness ask our models?

python -m gpt_jax.harness run --model gpt_jax --model_args pretrained=runs/gpt_tiny --tasks hellaswag,lambada_openai

is lm_eval's own command, with a model type more than it has by itself.
"""
