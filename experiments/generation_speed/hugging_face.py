"""Generation speed of transformers' GPT-2 on this CPU, as one JSON line.

Needs only torch and transformers. Weights are random; the speed does not depend on them.
"""

import argparse
import json
import time

import torch
import transformers

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--layers', type=int, default=12)
    parser.add_argument('--width', type=int, default=768)
    parser.add_argument('--heads', type=int, default=12)
    parser.add_argument('--prompt', type=int, default=32)
    parser.add_argument('--new_tokens', type=int, default=128)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 8])
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    flags = parser.parse_args()
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=flags.layers, n_embd=flags.width, n_head=flags.heads)
    model = transformers.GPT2LMHeadModel(config).eval().to(getattr(torch, flags.dtype))
    result = {
        'versions': {'torch': torch.__version__, 'transformers': transformers.__version__},
        'dtype': flags.dtype,
        'threads': torch.get_num_threads(),
    }
    for batch in flags.batches:
        seconds = min(
            _time_generate(model, batch, flags.prompt, flags.new_tokens) for _ in range(1 + ROUNDS)
        )
        result[f'tokens_per_second_batch{batch}'] = batch * flags.new_tokens / seconds
    print(json.dumps(result))


def _time_generate(
    model: transformers.GPT2LMHeadModel, batch: int, prompt: int, new_tokens: int
) -> float:
    """Return the seconds of one greedy call of `generate`, with its cache."""
    ids = torch.randint(0, model.config.vocab_size, (batch, prompt))
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - start


if __name__ == '__main__':
    main()
