"""torch.func, torch.compile and autocast through every way from scores to a distribution."""

import shutil

import networkx
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import structlat as sl
from structlat import opaque
from structlat.tractable import Tractable
from tests.judge import draw

FIRST = (
    sl.Categorical(4),
    sl.BitVector(5),
    sl.BitVector(5, symmetric=False, decomposition="flips"),
    sl.BudgetBitVector(5, 2),
    sl.BudgetBitVector(5, 2, exact=True),
    sl.LinearChain(3, 3),
    sl.BipartiteMatching(3, 3),
    sl.BipartiteMatching(2, 3, partial=True),
    sl.Structure.from_argmax(lambda s: s > 0, 4),
)
MORE = (
    sl.SemiMarkov(3, 2, 2),
    sl.Alignment(2, 3),
    sl.DependencyTree(3),
    sl.DependencyTree(3, projective=False, multi_root=False),
    sl.SpanningTree(networkx.cycle_graph(4)),
    sl.GeneralMatching(networkx.path_graph(4)),
    sl.Product(sl.Categorical(3), sl.LinearChain(2, 2)),
    sl.Restricted(sl.BipartiteMatching(3, 3), off=torch.eye(3) > 0),
)
SPACES = (*FIRST, *MORE)
SOLVERS = ("auto", "active_set")
needs_a_compiler = pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="torch's compiler needs one"
)
# "auto" is the active set where there is no closed form
CASES = [(s, solver) for s in SPACES for solver in SOLVERS if solver != "auto" or s.closed_form(torch.zeros(1, 4))]


def moments(structure, inputs, **options):
    """A number a row, of everything that a distribution gives derivatives to."""
    post = sl.sparsemap(structure, *inputs, **options)
    mean = post.mean.flatten(start_dim=post.mean.ndim - len(structure.shape))
    total = (mean * torch.arange(1, 1 + mean.shape[-1], dtype=mean.dtype)).sum(-1).square()
    total = total + (post.probs**2).sum(-1) + post.entropy()
    for x in post.extra_marginals:
        total = total + x.square().flatten(start_dim=-3).sum(-1)
    return total


@pytest.fixture(params=CASES, ids=lambda p: f"{p[0]!r}-{p[1]}")
def problem(request, generator):
    structure, solver = request.param
    inputs = draw(structure, generator, 4)
    every = tuple(range(len(inputs)))

    def fn(*inputs):
        return moments(structure, inputs, solver=solver)

    return fn, inputs, every


def gradients(fn, inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(fn(*inputs).sum(), inputs)


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_grad(problem):
    fn, inputs, every = problem
    close(grad(lambda *x: fn(*x).sum(), argnums=every)(*inputs), gradients(fn, inputs))


def test_vmap(problem):
    fn, inputs, _ = problem
    close(vmap(fn)(*inputs), fn(*inputs))
    twice = [torch.stack([x, 2 * x], 1) for x in inputs]
    close(vmap(vmap(fn))(*twice), torch.stack([fn(*inputs), fn(*(2 * x for x in inputs))], 1))
    last = [x.movedim(0, -1) for x in inputs]
    close(vmap(fn, in_dims=-1)(*last), fn(*inputs))


def test_vmap_of_grad(problem):
    fn, inputs, every = problem
    close(vmap(grad(fn, argnums=every))(*inputs), gradients(fn, inputs))


def test_backward_through_vmap(problem):
    """The tensor inside does not know that somebody outside wants its gradient."""
    fn, inputs, _ = problem
    close(gradients(vmap(fn), inputs), gradients(fn, inputs))


def test_jvp(problem):
    fn, inputs, _ = problem
    tangents = [torch.cos(x) for x in inputs]
    want = sum((g * t).flatten(start_dim=1).sum(-1) for g, t in zip(gradients(fn, inputs), tangents, strict=True))
    close(jvp(fn, tuple(inputs), tuple(tangents))[1], want)
    with forward_ad.dual_level():
        dual = fn(*(forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)))
        close(forward_ad.unpack_dual(dual).tangent, want)


def test_jacobians(problem):
    fn, inputs, every = problem
    reverse, forward = jacrev(fn, argnums=every)(*inputs), jacfwd(fn, argnums=every)(*inputs)
    close(reverse, forward)
    for jacobian, gradient in zip(reverse, gradients(fn, inputs), strict=True):
        close(jacobian.sum(0), gradient)


def test_hessian(problem):
    fn, inputs, _ = problem

    def scalar(x):
        return fn(x, *inputs[1:]).sum()

    got = hessian(scalar)(inputs[0])
    close(got, torch.autograd.functional.hessian(scalar, inputs[0]))
    step = 1e-6 * torch.sin(inputs[0])
    moved = (
        (gradients(lambda x: fn(x, *inputs[1:]), [inputs[0] + step])[0])
        - (gradients(lambda x: fn(x, *inputs[1:]), [inputs[0] - step])[0])
    )
    along = torch.tensordot(got, step, dims=step.ndim)
    torch.testing.assert_close(2 * along, moved, rtol=1e-4, atol=1e-9)


def test_vmap_over_gamma_and_over_shared_extra(generator):
    chain = sl.LinearChain(3, 2)
    unary, transition = draw(chain, generator, 3)
    gammas = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    got = vmap(lambda g: sl.sparsemap(chain, unary, transition[0], gamma=g).mean)(gammas)
    want = torch.stack([sl.sparsemap(chain, unary, transition[0], gamma=float(g)).mean for g in gammas])
    close(got, want)
    got = vmap(lambda t: sl.sparsemap(chain, unary, t).mean)(transition)
    close(got, torch.stack([sl.sparsemap(chain, unary, t).mean for t in transition]))


@pytest.mark.parametrize("structure", SPACES, ids=repr)
def test_the_other_normalizers_under_transforms(structure, generator):
    inputs = draw(structure, generator, 3)
    calls = [
        lambda *x: sl.topk_sparsemax(structure, *x, k=3).mean.square().flatten(start_dim=-len(structure.shape)).sum(-1),
        *(
            lambda *x, n=name: sl.marginalize(structure, *x, normalizer=n).entropy()
            for name in ("softmax", "sparsemax", "entmax15")
        ),
    ]
    for call in calls:
        close(vmap(call)(*inputs), call(*inputs))
        close(vmap(grad(call))(*inputs), gradients(lambda x: call(x, *inputs[1:]), inputs[:1])[0])  # noqa: B023
    close(vmap(lambda *x: sl.argmax(structure, *x))(*inputs), sl.argmax(structure, *inputs))


def test_what_cannot_run_under_vmap_says_so(generator):
    x = draw(sl.BitVector(4), generator, 3)[0]
    with pytest.raises(RuntimeError, match=r"expect: cannot run under vmap.*`probs` and `structures`"):
        vmap(lambda x: sl.sparsemap(sl.BitVector(4), x).expect(lambda z, i: z.sum(-1)))(x)
    want = sl.sparsemap(sl.BitVector(4), x).expect(lambda z, i: z.sum(-1))

    def padded(x):
        post = sl.sparsemap(sl.BitVector(4), x)
        return (post.probs * post.structures.sum(-1)).sum(-1)

    close(vmap(padded)(x), want)


def test_errors_under_vmap_name_the_rows(generator):
    x = torch.zeros(2, 3, 4)
    x[1, 2, 0] = torch.nan
    with pytest.raises(sl.ArgumentError, match=r"scores: NaN or \+inf in row \(1, 2\) \(1 of 6\)"):
        vmap(lambda x: sl.sparsemap(sl.BitVector(4), x).mean)(x)
    x[1, 2] = -torch.inf
    for solver in SOLVERS:
        with pytest.raises(sl.InfeasibleError, match=r"no structure .* row \(1, 2\) \(1 of 6\)"):
            vmap(lambda x: sl.sparsemap(sl.Categorical(4), x, solver=solver).mean)(x)  # noqa: B023


# torch.compile.


class Autoencoder(torch.nn.Module):
    """Everything of a distribution that a training step reads, in one graph."""

    def __init__(self, structure, **options):
        super().__init__()
        self.structure = structure
        n = structure.shape.numel()
        self.encoder, self.decoder = torch.nn.Linear(7, n), torch.nn.Linear(n, 7)
        self.layer = sl.SparseMAP(structure, **options)
        self.extra = torch.nn.ParameterList([torch.randn(s) for s in structure.extra_shapes])

    def forward(self, x):
        post = self.layer(self.encoder(x).reshape(-1, *self.structure.shape), *self.extra)

        def loss(a, i):
            return (self.decoder(a.flatten(1)) - x[i]).square().sum(-1)

        total = (post.expect(loss, vertices=True) - post.entropy()).mean() + post.mean.square().sum()
        return total + sum(x.square().sum() for x in post.extra_marginals)


def compiled_step(structure, backend, **options):
    torch.manual_seed(20)
    torch._dynamo.reset()
    model = Autoencoder(structure, **options)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for rows in (5, 3):
        x = torch.randn(rows, 7)
        want = torch.autograd.grad(model(x), tuple(model.parameters()))
        loss = compiled(x)
        torch.testing.assert_close(loss, model(x), rtol=1e-5, atol=1e-5)
        got = torch.autograd.grad(loss, tuple(model.parameters()))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    return model, compiled


@pytest.mark.parametrize(
    ("structure", "solver"),
    # a compilation takes seconds: of what goes the same way, most are for the nightly run
    [pytest.param(*case, marks=pytest.mark.nightly if case[0] in MORE[1:] else ()) for case in CASES],
    ids=str,
)
def test_compile_forward_and_backward(structure, solver):
    compiled_step(structure, "aot_eager", solver=solver)


@needs_a_compiler
def test_compile_with_the_default_backend():
    compiled_step(sl.BudgetBitVector(5, 2), "inductor")


@needs_a_compiler
@pytest.mark.nightly
@pytest.mark.parametrize("structure", SPACES, ids=repr)
def test_compile_every_space_with_the_default_backend(structure):
    compiled_step(structure, "inductor", solver="active_set")


@pytest.mark.parametrize("structure", SPACES[:6], ids=repr)
def test_compile_of_grad(structure, generator):
    torch._dynamo.reset()
    inputs = draw(structure, generator, 3)

    def scalar(x):
        return sl.sparsemap(structure, x, *inputs[1:]).mean.square().sum()

    got = torch.compile(grad(scalar), fullgraph=True, backend="aot_eager")(inputs[0])
    close(got, grad(scalar)(inputs[0]))


@pytest.mark.parametrize(
    "structure",
    [
        pytest.param(s, marks=() if s in (FIRST[1], FIRST[5], MORE[3]) else pytest.mark.nightly)
        for s in SPACES
        if isinstance(s, Tractable)
    ],
    ids=repr,
)
def test_compile_of_sums(structure, generator):
    torch._dynamo.reset()
    inputs = [x.requires_grad_() for x in draw(structure, generator, 3)]

    def total(*inputs):
        gibbs = sl.Gibbs(structure, *inputs)
        return (gibbs.log_partition + gibbs.entropy()).sum() + structure.log_partition(*inputs).square().sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    close(compiled(*inputs), total(*inputs))
    close(torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(total(*inputs), inputs))


def test_compiled_errors_and_warnings_arrive(generator):
    torch._dynamo.reset()
    x = draw(sl.BitVector(6), generator, 3)[0]
    call = torch.compile(lambda x: sl.sparsemap(sl_bits, x).mean, fullgraph=True, backend="aot_eager")
    sl_bits = sl.BitVector(6)
    close(call(x), sl.sparsemap(sl_bits, x).mean)
    x[1, 0] = torch.nan
    with pytest.raises(sl.ArgumentError, match=r"scores: NaN or \+inf in row 1 \(1 of 3\)"):
        call(x)


def test_a_deleted_structure_is_missed_by_name():
    with pytest.raises(RuntimeError, match="no structure"):
        opaque.structure_of("gone")


# The operators themselves.


@pytest.mark.parametrize("structure", SPACES, ids=repr)
def test_opcheck(structure, generator):
    scores, *extra = draw(structure, generator, 3)
    extra = [x[:1] for x in extra]
    ops, handle, shape = torch.ops.structlat, structure.handle, [3]
    unit = torch.ones(1, dtype=torch.float64)
    solve = (scores, extra, unit, [], handle, "active_set", 1e-9, None, "warn", False, False, shape, 2)
    z, p, *_ = ops.sparsemap(*solve)
    calls = [
        (ops.refuse, (torch.zeros(3, dtype=torch.bool), "ArgumentError", "")),
        (ops.argmax, (scores, extra, handle, shape)),
        (ops.topk, (scores, extra, handle, 3, shape)),
        (ops.listed, (torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]), 2, True)),
        (ops.positive, (p,)),
        (ops.sparsemap, solve),
        # a trace has NaN where a row has finished, which opcheck takes for a difference: one row has none
        (ops.sparsemap, (scores[:1], *solve[1:10], True, [1], 2)),
        (ops.sparsemap, (*solve[:3], [z, p], *solve[4:])),
        (ops.face, (scores, extra, z, p, handle, 2)),
    ]
    for op, args in calls:
        torch.library.opcheck(op.default, args)


def test_a_solver_may_use_autograd_in_its_oracle():
    class Slope(sl.Structure):
        """Bits, by the derivative of the largest score."""

        shape = torch.Size([4])

        def argmax(self, scores):
            with torch.enable_grad():
                x = scores.detach().requires_grad_()
                return torch.autograd.grad(x.clamp(min=0).sum(), x)[0]

    x = torch.tensor([[0.3, -1.0, 2.0, 0.5]], dtype=torch.float64)
    close(sl.sparsemap(Slope(), x).mean, x.clamp(0, 1))
