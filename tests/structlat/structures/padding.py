"""A padded batch has to give what each example gives alone: values, and gradients."""

import torch

import structlat as sl
from structlat.tractable import Tractable


def check_padded(generator, big, shared, masked, alone, part):
    """``shared``: the scores of the padded batch [B, ...]; ``masked(*shared)``: with the mask.

    ``alone(row)``: the small space of a row; ``part(row, x, n)``: what belongs to the row of shared[n], or of marginals
    of that shape.
    """
    inputs = [x.clone().requires_grad_() for x in shared]
    rows = len(shared[0])
    calls = [
        lambda s, *x: sl.sparsemap(s, *x, on_failure="raise").mean,
        lambda s, *x: sl.topk_sparsemax(s, *x, k=3).mean,
        lambda s, *x: sl.marginalize(s, *x).mean,
    ]
    if isinstance(big, Tractable):
        calls.append(lambda s, *x: s.marginals(*x))
    weights = torch.randn(shared[0].shape, generator=generator, dtype=torch.float64)
    for call in calls:
        mean = call(big, *masked(*inputs))
        both = torch.autograd.grad((mean * weights).sum(), inputs, allow_unused=True)
        total = [torch.zeros_like(x) for x in inputs]
        outside = torch.ones_like(mean, dtype=torch.bool)
        for row in range(rows):
            small = alone(row)
            own = [part(row, x, n) for n, x in enumerate(inputs)]
            one = call(small, *own)
            torch.testing.assert_close(part(row, mean, 0), one, atol=1e-8, rtol=0)
            part(row, outside, 0)[...] = False
            if not one.requires_grad:  # a single structure: its marginals are constant
                continue
            gradients = torch.autograd.grad((one * part(row, weights, 0)).sum(), inputs, allow_unused=True)
            for into, gradient in zip(total, gradients, strict=True):
                into += 0 if gradient is None else gradient
        for a, b in zip(both, total, strict=True):
            torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b, atol=1e-7, rtol=0)
        # what is added for the padding is certain
        rest = mean[outside].detach()
        torch.testing.assert_close(rest, rest.round(), atol=1e-9, rtol=0)
