"""GPT-2 and Llama models of transformers with our weights, mapped by hand."""

import numpy as np


def gpt2(config, params):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            bos_token_id=0,
            eos_token_id=config.vocab_size - 1,
            attn_implementation='eager',
        )
    )
    state, blocks = {}, params['blocks']
    for n in range(config.layers):
        a, f = (
            {k: np.asarray(v[n]) for k, v in blocks[part].items()}
            for part in ('attention', 'feedforward')
        )
        h = f'transformer.h.{n}.'
        flat = lambda w: w.reshape(config.width, -1)
        state[f'{h}attn.c_attn.weight'] = np.concatenate(
            [flat(a[k]) for k in ('query', 'key', 'value')], 1
        )
        state[f'{h}attn.c_attn.bias'] = np.concatenate(
            [a[f'{k}_bias'].ravel() for k in ('query', 'key', 'value')]
        )
        state[f'{h}attn.c_proj.weight'] = a['output'].reshape(-1, config.width)
        state |= {
            f'{h}attn.c_proj.bias': a['output_bias'],
            f'{h}mlp.c_fc.weight': f['up'],
            f'{h}mlp.c_fc.bias': f['up_bias'],
            f'{h}mlp.c_proj.weight': f['down'],
            f'{h}mlp.c_proj.bias': f['down_bias'],
        }
        for ours, name in (('norm_1', 'ln_1'), ('norm_2', 'ln_2')):
            state[f'{h}{name}.weight'], state[f'{h}{name}.bias'] = (
                blocks[ours]['scale'][n],
                blocks[ours]['bias'][n],
            )
    table = params['embedding']['table_VD']
    state |= {
        'transformer.wte.weight': table,
        'lm_head.weight': table,
        'transformer.wpe.weight': params['position']['table'],
        'transformer.ln_f.weight': params['norm']['scale'],
        'transformer.ln_f.bias': params['norm']['bias'],
    }
    theirs.load_state_dict({name: torch.tensor(np.array(value)) for name, value in state.items()})
    return theirs.eval()


def llama(config, params):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.context,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_epsilon,
            rope_theta=config.rotary_base,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=config.vocab_size - 1,
            attn_implementation='eager',
        )
    )
    state, blocks = {}, params['blocks']
    for n in range(config.layers):
        a, f = (
            {k: np.asarray(v[n]) for k, v in blocks[part].items()}
            for part in ('attention', 'feedforward')
        )
        h = f'model.layers.{n}.'
        for ours, name in (('query', 'q'), ('key', 'k'), ('value', 'v')):
            state[f'{h}self_attn.{name}_proj.weight'] = a[ours].reshape(config.width, -1).T
        state[f'{h}self_attn.o_proj.weight'] = a['output'].reshape(-1, config.width).T
        state |= {f'{h}mlp.{name}_proj.weight': f[name].T for name in ('gate', 'up', 'down')}
        state[f'{h}input_layernorm.weight'] = blocks['norm_1']['scale'][n]
        state[f'{h}post_attention_layernorm.weight'] = blocks['norm_2']['scale'][n]
    state |= {
        'model.embed_tokens.weight': params['embedding']['table_VD'],
        'model.norm.weight': params['norm']['scale'],
        'lm_head.weight': params['head']['weight_VD'],
    }
    theirs.load_state_dict({name: torch.tensor(np.array(value)) for name, value in state.items()})
    return theirs.eval()


def generate(theirs, prompts, **given) -> list[list[int]]:
    """The ids that transformers generates, in one left-padded batch; end ids are included."""
    import torch

    end = theirs.config.eos_token_id
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), end)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, longest - len(prompt.ids) :] = 1
    with torch.no_grad():
        rows = theirs.generate(
            ids, attention_mask=mask, pad_token_id=end, **{'do_sample': False} | given
        )
    written = [row[longest:].tolist() for row in rows]
    return [row[: row.index(end) + 1] if end in row else row for row in written]
