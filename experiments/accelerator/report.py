"""Table and summary of the records of one call of measure.py."""

from typing import Any

HEAD = ('shape', 'program', 'batch', 'tokens/s', 'MFU', 'memory GiB', 'compile s')
SUMMARY = (
    'framework',
    'variant',
    'batch',
    'tokens_per_second',
    'step_seconds',
    'model_flops_utilization',
    'peak_memory_bytes',
    'compile_seconds',
    'final',
    'timed_steps',
)
FAILED = ('shape', 'framework', 'variant', 'batch', 'failed')
DEVICE = (
    'device',
    'platform',
    'peak_flops',
    'peak_flops_source',
    'flops_convention',
    'xla_flags',
    'versions',
)


def format_table(records: list[dict[str, Any]]) -> str:
    """Return one line per measurement, in order; a star marks the result of each shape."""
    results = [find_result(records, r['shape']) for r in records]
    rows = [HEAD, *(_format_row(r, r is best) for r, best in zip(records, results, strict=True))]
    widths = [max(len(row[i]) for row in rows if len(row) == len(HEAD)) for i in range(len(HEAD))]
    return '\n'.join(
        '  '.join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def _format_row(record: dict[str, Any], starred: bool) -> tuple[str, ...]:
    program = f'{record["framework"]} {"+".join(record["variant"])}{" *" if starred else ""}'
    if 'failed' in record:
        return record['shape'], program, str(record['batch']), record['failed']
    return (
        record['shape'],
        program,
        str(record['batch']),
        f'{record["tokens_per_second"]:,.0f}',
        f'{record["model_flops_utilization"]:.1%}',
        f'{record["peak_memory_bytes"] / 2**30:.2f}',
        f'{record["compile_seconds"]:.1f}{" cached" if record.get("compile_from_cache") else ""}',
    )


def find_result(records: list[dict[str, Any]], shape: str) -> dict[str, Any] | None:
    """Return gpt_jax's final measurement of a shape, or its fastest if there is no final one."""
    ours = [
        r
        for r in records
        if r['shape'] == shape and r['framework'] == 'gpt_jax' and 'failed' not in r
    ]
    return max(ours, key=lambda r: (r['final'], r['tokens_per_second']), default=None)


def summarize(
    records: list[dict[str, Any]],
    device: dict[str, Any],
    shapes: list[str],
    not_done: list[str],
    seconds: float,
) -> dict[str, Any]:
    """Return each shape's result, PyTorch's and their ratio, and the failed and omitted parts."""
    results: dict[str, Any] = {}
    for shape in shapes:
        ours = find_result(records, shape)
        peers = [
            r
            for r in records
            if r['shape'] == shape and r['framework'] != 'gpt_jax' and 'failed' not in r
        ]
        peer = max(peers, key=lambda r: r['tokens_per_second'], default=None)
        results[shape] = {
            'gpt_jax': ours and {name: ours[name] for name in SUMMARY},
            'torch': peer and {name: peer[name] for name in SUMMARY if name in peer},
            'ratio': ours['tokens_per_second'] / peer['tokens_per_second']
            if ours and peer
            else None,
        }
    return {
        **{name: device[name] for name in DEVICE},
        'shapes': results,
        'failed': [
            {name: r[name] for name in FAILED}
            for r in records
            if 'failed' in r and not r.get('out_of_time')
        ],
        'not_done': not_done,
        'seconds': seconds,
    }
