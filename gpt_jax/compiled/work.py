"""What does one instruction cost? Floating-point operations of its matrix products, bytes that it moves."""

import re

import numpy as np

from gpt_jax.compiled.text import Computation, Instruction, Program, Shape

# They name, slice up or wait for what is there already, or run a computation whose own instructions are counted.
FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all',
    'partition-id', 'replica-id', 'opt-barrier', 'iota', 'async-start', 'async-update', 'async-done', 'copy-done',
}  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')


def flops(computation: Computation, one: Instruction) -> int:
    """Of one matrix product or convolution, a multiplication and an addition for each term; of anything else 0.

    A fusion is 0 too: the products inside are instructions of their own. Of a kernel that the compiler cannot look into
    (a custom call) it is what its author has declared.
    """
    if one.opcode == 'dot':
        return 2 * one.shapes[0].size * _contracted(computation, one)
    if one.opcode == 'convolution':
        return _convolution(computation, one)
    if one.opcode == 'custom-call':
        return _custom(computation, one)
    return 0


def _contracted(computation: Computation, one: Instruction) -> int:
    left = computation.shapes(one.operands[0])[0]
    count = 1
    for dim in one.ints('lhs_contracting_dims'):
        count *= left.dims[dim]
    return count


def _custom(computation: Computation, one: Instruction) -> int:
    target = one.attribute(r'custom_call_target="([^"]*)"') or ''
    if 'gemm' in target or 'matmul' in target.lower():
        dims = one.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
        left = computation.shapes(one.operands[0])[0]
        numbers = [int(dim) for dim in re.findall(r'\d+', dims or '')] or [len(left.dims) - 1]
        return 2 * one.shapes[0].size * int(np.prod([left.dims[dim] for dim in numbers]))
    return int(one.attribute(r'"flops":"?(\d+)') or 0)


def _convolution(computation: Computation, one: Instruction) -> int:
    """A TPU's compiler writes every matrix product as one, a batch of them as dims of a window that is mostly holes."""
    left, right = (computation.shapes(operand)[0] for operand in one.operands[:2])
    labels = one.attribute(r'dim_labels=(\S+?)(?:,|\s|$)') or ''
    left_labels, right_labels, out_labels = re.split(r'_|->', labels)
    out = one.shapes[0]
    count = right.dims[right_labels.index('i')] * out.dims[out_labels.index('f')]
    count *= left.dims[left_labels.index('b')] // int(one.attribute(r'batch_group_count=(\d+)') or 1)
    window = one.attribute(r'window=\{([^}]*)\}') or ''
    for dim, label in enumerate(sorted(set(left_labels) - {'b', 'f'})):
        count *= _pairs(
            left.dims[left_labels.index(label)], right.dims[right_labels.index(label)],
            out.dims[out_labels.index(label)], window, dim,
        )  # fmt: skip
    return 2 * count


def _pairs(inputs: int, kernel: int, outputs: int, window: str, dim: int) -> int:
    """In one spatial dim, how many pairs of an output and a tap of the kernel meet an input, not a hole or the edge."""

    def field(name: str, default: str) -> str:
        found = re.search(rf'\b{name}=(\S+)', window)
        return found[1].split('x')[dim] if found else default

    stride, low = int(field('stride', '1')), int(field('pad', '0_0').split('_')[0])
    holes, spread = int(field('lhs_dilate', '1')), int(field('rhs_dilate', '1'))
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel)[None] * spread - low
    return int(np.sum((at >= 0) & (at <= (inputs - 1) * holes) & (at % holes == 0)))


def moved(program: Program, computation: Computation, one: Instruction) -> int:
    """Bytes read from and written to the device's main memory: operands and results, slices and updates by their size.

    What lies in memory on the chip is not counted, nor what tiles pad.
    """
    if one.opcode in FREE or (one.opcode == 'custom-call' and not one.operands):
        return 0
    if one.opcode in ('copy-start', 'collective-permute-start'):
        return sum(_slow(shape) for shape in one.shapes[:2])
    inner = program.computations.get(one.called[0]) if one.opcode == 'fusion' and one.called else None
    if inner is not None:
        return _fusion(computation, inner, one)
    shapes = [computation.shapes(operand) for operand in one.operands]
    if one.opcode in _SLICES:
        return 2 * sum(map(_slow, one.shapes))
    if one.opcode == 'dynamic-update-slice':
        return 2 * sum(map(_slow, shapes[1]))
    return sum(map(_slow, one.shapes)) + sum(_slow(shape) for each in shapes for shape in each)


def _slow(shape: Shape) -> int:
    return 0 if shape.fast else shape.bytes


def _fusion(computation: Computation, inner: Computation, one: Instruction) -> int:
    total = 0
    for parameter in (each for each in inner.instructions if each.opcode == 'parameter'):
        whole = sum(map(_slow, computation.shapes(one.operands[int(parameter.literal)])))
        total += min(whole, _read(inner, parameter)) if whole else 0
    roots = [inner.root]
    if inner.root.opcode == 'tuple':
        roots = [inner.by_name[operand] for operand in inner.root.operands]
    for root, shape in zip(roots, one.shapes, strict=False):
        update = _update(inner, root)
        total += (update if update is not None else shape.bytes) if not shape.fast else 0
    return total


def _read(inner: Computation, parameter: Instruction) -> int:
    """How much of a fusion's parameter is looked at: slices only, nothing of what is only written into, or all."""
    total, pending = 0, [parameter]
    while pending:
        one = pending.pop()
        for user in inner.users.get(one.name, []):
            if user.opcode in _SLICES and user.operands[0] == one.name:
                total += user.bytes
            elif user.opcode == 'dynamic-update-slice' and user.operands[0] == one.name:
                continue
            elif user.opcode == 'bitcast':
                pending.append(user)
            else:
                return parameter.bytes
    return total


def _update(inner: Computation, root: Instruction) -> int | None:
    """The bytes written where a fusion's result is an update of one of its parameters."""
    while root.opcode == 'bitcast':
        root = inner.by_name[root.operands[0]]
    if root.opcode != 'dynamic-update-slice':
        return None
    return sum(shape.bytes for shape in inner.shapes(root.operands[1]))
