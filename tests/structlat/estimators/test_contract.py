"""What every estimator is held to: calls, shapes, dtypes, masks, entropy, generators, checkpoints, errors."""

import copy
import io
import pickle

import pytest
import torch

import structlat as sl
from structlat import estimators
from structlat.estimators import ESTIMATORS, IMLE, NVIL, DisARM, GumbelSoftmax, PerturbAndMAP, ScoreFunction
from tests.judge import draw, forbid
from tests.structlat.estimators.problems import BITS, SPACES, Problem, called, inputs_of, loss_of, made, quadratic

NOISY = ("perturb-and-map", "imle")
EXACT = ("softmax", "sparsemax", "topk", "sparsemap", "sparsemap-budget")


def defined(name, structure):
    if name == "disarm":
        return isinstance(structure, sl.BitVector)
    if "gumbel" in name:
        return isinstance(structure, (sl.Categorical, sl.BitVector))
    if name == "sparsemap-budget":
        return isinstance(structure, (sl.BitVector, sl.BudgetBitVector))
    return True


CASES = [(s, name) for s in SPACES for name in ESTIMATORS if defined(name, s)]
each_case = pytest.mark.parametrize(("structure", "name"), CASES, ids=str)
each_name = pytest.mark.parametrize("name", list(ESTIMATORS))


# One call, and what is counted.


@each_case
def test_one_call_on_the_whole_batch_and_every_structure_counted(structure, name, generator):
    inputs, seen = inputs_of(structure, (2, 3), generator), []

    def loss(a, i):
        seen.append((a, i))
        return quadratic(a, i)

    out = made(name, structure)(loss, *inputs, context=torch.ones(2, 3, 2))
    ((a, i),) = seen
    assert i.dtype == out.calls.dtype == torch.int64
    assert torch.equal(torch.bincount(i, minlength=6).reshape(2, 3), out.calls)
    assert a.shape == (len(i), *structure.shape)
    assert a.dtype == torch.float64
    assert len(structure.enumerate()) >= out.calls.max() or name == "vimco"


@each_case
def test_training_after_an_evaluation(structure, name, generator):
    """As where a program tests one model, in inference mode, and then trains another on the same space."""
    fresh = copy.deepcopy(structure)
    inputs = inputs_of(fresh, (2,), generator)
    with torch.inference_mode():
        called(made(name, fresh).eval(), *inputs)
    torch.autograd.grad(called(made(name, fresh), *inputs).surrogate.sum(), inputs)


@each_case
def test_structures_where_vertices_are_not_asked_for(structure, name, generator):
    inputs, seen = inputs_of(structure, (4,), generator), []
    own = structure.event_dtype is None
    estimator = made(name, structure)

    def loss(z, i):
        seen.append(z)
        return structure.vertex(z).double().flatten(1).sum(-1) if not own else quadratic(z, i)

    if not own and (name in ("imle", "gumbel", "st-gumbel")):
        with pytest.raises(sl.ArgumentError, match=f"vertices: got False; '{name}' expects True"):
            estimator(loss, *inputs, vertices=False)
        return
    out = estimator(loss, *inputs, context=torch.ones(4, 2), vertices=False)
    assert seen[0].shape[1:] == structure.event_shape
    assert seen[0].dtype == (structure.event_dtype or torch.float64)
    if name != "gumbel":
        assert structure.contains(seen[0].detach()).all()
    assert torch.isfinite(torch.autograd.grad(out.surrogate.sum(), inputs[0])[0]).all()


@each_name
def test_rows_meet_their_own_example(name, generator):
    """The loss of a row is that of its example, whatever the batch shape: x[i] is right."""
    x, offset = torch.randn(2, 3, 3, generator=generator), torch.arange(6.0) * 100
    out = made(name)(lambda a, i: offset[i] + 0 * a.sum(-1), x, context=torch.ones(2, 3, 1))
    # the bound of several samples has their log-probabilities in it, which come to a few nats
    torch.testing.assert_close(out.value, offset.reshape(2, 3), rtol=1e-5, atol=10 if name == "vimco" else 1e-4)


# Shapes, dtypes, masks.


@each_case
@pytest.mark.parametrize("batch", [(), (4,), (2, 1, 3), (0,), (2, 0)])
def test_batch_dimensions(structure, name, batch, generator):
    inputs = inputs_of(structure, batch, generator)
    out = called(made(name, structure), *inputs)
    assert all(x.shape == batch for x in out)
    slopes = torch.autograd.grad(out.surrogate.sum() + out.entropy.sum(), inputs, allow_unused=0 in batch)
    for x, slope in zip(inputs, slopes, strict=True):
        assert slope is None or slope.shape == x.shape
    assert not out.value.requires_grad
    torch.testing.assert_close(out.surrogate.detach(), out.value)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(structure, name, dtype, generator):
    inputs = inputs_of(structure, (3,), generator, dtype)
    out = called(made(name, structure), *inputs)
    assert out.value.dtype == out.surrogate.dtype == out.entropy.dtype == torch.float32
    for slope in torch.autograd.grad(out.surrogate.sum(), inputs):
        assert slope.dtype == dtype
        assert torch.isfinite(slope).all()


@each_case
def test_forbidden_parts_have_no_gradient(structure, name, generator):
    plain = forbid(structure, draw(structure, generator, 40), generator)
    inputs = [x.clone().requires_grad_() for x in plain]
    out = called(made(name, structure), *inputs)
    for x, slope in zip(inputs, torch.autograd.grad(out.surrogate.sum() + out.entropy.sum(), inputs), strict=True):
        assert torch.isfinite(slope).all()
        assert (slope[torch.isneginf(x)] == 0).all()
    seen = []
    made(name, structure)(lambda a, i: seen.append((a, i)) or quadratic(a, i), *inputs, context=torch.ones(40, 2))
    ((a, i),) = seen
    assert (a[torch.isneginf(plain[0][i])] == 0).all()


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if defined(name, SPACES[2])])
def test_shared_extra_scores(name, generator):
    chain = SPACES[2]
    (unary, _), shared = inputs_of(chain, (5,), generator), torch.randn(2, 2, generator=generator, dtype=torch.float64)
    one, other = shared.clone().requires_grad_(), shared.expand(5, 2, 2, 2).clone().requires_grad_()
    slopes = [torch.autograd.grad(called(made(name, chain), unary, x).surrogate.sum(), x)[0] for x in (one, other)]
    torch.testing.assert_close(slopes[0], slopes[1].sum((0, 1)))
    assert float(slopes[0].abs().max()) > 0


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if defined(name, SPACES[3])])
def test_a_budget_a_row(name, generator):
    """A space that differs by row brings extra scores itself: no noise on them, no gradient, and they are obeyed."""
    structure = sl.BudgetBitVector(5, torch.tensor([[1, 2, 3], [0, 5, 4]]))
    (x,), seen = inputs_of(sl.BitVector(5), (2, 3), generator), []
    out = made(name, structure)(lambda a, i: seen.append((a, i)) or quadratic(a, i), x, context=torch.ones(2, 3, 2))
    ((a, i),) = seen
    assert (a.sum(-1) <= structure.budget.flatten()[i]).all()
    assert out.value.shape == (2, 3)
    assert torch.isfinite(torch.autograd.grad(out.surrogate.sum() + out.entropy.sum(), x)[0]).all()


def test_a_loss_of_rewards(generator):
    """Whole numbers and truth values are losses, where nothing has to be differentiated in them."""
    for name in ESTIMATORS:
        if name in ("imle", "gumbel", "st-gumbel"):
            continue
        x = torch.randn(4, 3, generator=generator, requires_grad=True)
        out = made(name)(lambda a, i: a[:, 0] > 0, x, context=torch.ones(4, 2))
        assert out.value.dtype == torch.float32
        torch.autograd.grad(out.surrogate.sum(), x)


# Entropy.


@each_case
def test_entropy_is_that_of_q(structure, name):
    if name in NOISY or name in EXACT:
        return  # their own tests
    problem = Problem(structure)
    *inputs, _ = problem.leaves(1)
    out = called(made(name, structure), *inputs)
    want = problem.exact(lambda log_q, losses: -(log_q.exp() * log_q).sum() + 0 * losses.sum())
    slopes = torch.autograd.grad(out.entropy.sum(), inputs)
    torch.testing.assert_close(out.entropy.detach()[0], want.value)
    torch.testing.assert_close(torch.cat([x.reshape(-1) for x in slopes]), want.inputs)


# Baselines.


BASELINES = [
    ("none", ScoreFunction, {}, [1.0]),
    ("average", ScoreFunction, {"baseline": "average"}, [1.0]),
    ("self-critic", ScoreFunction, {"baseline": "self-critic"}, [1.0, 0.0]),
    ("leave-one-out", ScoreFunction, {"baseline": "leave-one-out", "samples": 4}, [0.25] * 4),
    ("nvil", NVIL, {}, [1.0]),
    ("disarm", DisARM, {}, [0.5, 0.5]),
    ("perturb-and-map", PerturbAndMAP, {}, [1.0, 0.0]),
    ("perturb-and-map, leave-one-out", PerturbAndMAP, {"baseline": "leave-one-out", "samples": 2}, [0.5, 0.5]),
    ("st-gumbel", GumbelSoftmax, {"hard": True}, [1.0]),
    ("imle", IMLE, {"samples": 2}, [0.5, 0.5]),
]


@pytest.mark.parametrize(("name", "maker", "options", "want"), BASELINES, ids=[x[0] for x in BASELINES])
def test_baselines_are_detached(name, maker, options, want, generator):
    """How the surrogate changes with the losses themselves: by the weights of the samples, and by nothing else."""
    kept = []

    def loss(a, i):
        kept.append(quadratic(a, i).detach().requires_grad_())
        return kept[0] + 0 * a.sum(-1)

    x = torch.randn(50, 3, generator=generator, requires_grad=True)
    estimator = maker(BITS, generator=generator, **options)
    out = estimator(loss, x, context=torch.ones(50, 2))
    (slope,) = torch.autograd.grad(out.surrogate.sum(), kept[0], retain_graph=True)
    torch.testing.assert_close(slope.reshape(-1, 50), torch.tensor(want).unsqueeze(1).expand(-1, 50))


def test_the_baseline_network_learns_its_squared_error_and_nothing_else_does(generator):
    estimator = NVIL(BITS, hidden=8, generator=generator)
    x = torch.randn(20, 3, generator=generator, requires_grad=True)
    context = torch.randn(20, 4, 2, generator=generator, requires_grad=True)
    out = estimator(quadratic, x, context=context)
    (by_context,) = torch.autograd.grad(out.surrogate.sum(), context, retain_graph=True, allow_unused=True)
    assert by_context is None
    parameters = list(estimator.parameters())
    got = torch.autograd.grad(out.surrogate.sum(), parameters)
    b = estimator.network(context.detach(), 1).squeeze(-1)
    want = torch.autograd.grad((out.value - b).square().sum(), parameters)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
    assert max(float(g.abs().max()) for g in got) > 0


def test_a_network_of_ones_own(generator):
    network = torch.nn.Linear(2, 1)
    estimator = NVIL(BITS, network, generator=generator)
    x, context = torch.randn(2, 5, 3, generator=generator), torch.randn(2, 5, 2, generator=generator)
    out = estimator(quadratic, x, context=context)
    out.surrogate.sum().backward()
    assert float(network.bias.grad.abs()) > 0
    assert NVIL(BITS, torch.nn.Flatten(0))(quadratic, x[0], context=torch.ones(5)).value.shape == (5,)
    with pytest.raises(sl.ArgumentError, match=r"network: returned shape \(2, 5, 4\); expected shape \(2, 5\)"):
        NVIL(BITS, torch.nn.Linear(2, 4))(quadratic, x, context=context)
    for options in ({"network": abs}, {"network": network, "context_size": 2}):
        with pytest.raises(sl.ArgumentError, match="network: got"):
            NVIL(BITS, **options)


def test_context_is_asked_for(generator):
    x = torch.randn(2, 5, 3, generator=generator)
    with pytest.raises(sl.ArgumentError, match=r"context: got NoneType; expected a tensor \[\*batch, ...\].*\(2, 5\)"):
        made("nvil")(quadratic, x)
    with pytest.raises(sl.ArgumentError, match=r"context: got shape \(5, 2\)"):
        made("nvil")(quadratic, x, context=torch.ones(5, 2))


def test_the_running_average_is_that_of_all_steps_before():
    estimator = made("sfe")
    for step, value in enumerate((4.0, 10.0, 1.0), start=1):
        out = estimator(lambda a, i, value=value: value + 0 * a.sum(-1), torch.zeros(7, 3))
        assert float(out.value[0]) == value
        assert int(estimator.steps) == step
    assert float(estimator.average) == pytest.approx(5.0)
    estimator.eval()
    estimator(quadratic, torch.zeros(7, 3))
    estimator.train()(quadratic, torch.zeros(0, 3))  # nothing to average
    assert (float(estimator.average), int(estimator.steps)) == (5.0, 3)
    moving = ScoreFunction(BITS, "average", momentum=0.25)
    for value in (4.0, 8.0):
        moving(lambda a, i, value=value: torch.full((len(i),), value), torch.zeros(7, 3))
    assert float(moving.average) == pytest.approx(0.75 * 1.0 + 0.25 * 8.0)


def test_the_average_is_what_the_loss_is_compared_with():
    estimator, x = made("sfe"), torch.zeros(7, 3, requires_grad=True)
    constant = lambda a, i: torch.full((len(i),), 6.0)  # noqa: E731
    first, second = (torch.autograd.grad(estimator(constant, x).surrogate.sum(), x)[0].abs().max() for _ in range(2))
    assert float(first) == pytest.approx(3.0)  # 6 times |z - 1/2|
    assert float(second) == 0


# Training and evaluation, generators, checkpoints.


@each_name
def test_evaluation_gives_the_same_estimate(name, generator):
    x = torch.randn(6, 3, generator=generator, requires_grad=True)
    one, other = made(name), made(name).eval()
    first, second = called(one, x), called(other, x)
    torch.testing.assert_close(first.value, second.value)
    torch.testing.assert_close(*(torch.autograd.grad(out.surrogate.sum(), x)[0] for out in (first, second)))
    with torch.no_grad():
        third = called(made(name).eval(), x)
    torch.testing.assert_close(third.value, first.value)
    assert not third.surrogate.requires_grad


@each_name
def test_a_generator_is_all_that_is_drawn_from(name, generator):
    x = torch.randn(50, 3, generator=generator)
    before = torch.get_rng_state()
    one, other = called(made(name, seed=3), x), called(made(name, seed=3), x)
    apart = estimators.get(name)(BITS, vertices=True)
    if name == "nvil":
        apart = NVIL(BITS, torch.nn.Flatten(0), vertices=True)
        state = torch.get_rng_state()
        apart(quadratic, x, context=torch.ones(50), generator=torch.Generator().manual_seed(3))
        assert torch.equal(state, torch.get_rng_state())
    else:
        third = called(apart, x, generator=torch.Generator().manual_seed(3))
        assert torch.equal(third.value, one.value)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.value, other.value)
    drawn = made(name, seed=3)
    changes = not torch.equal(called(drawn, x).value, called(drawn, x).value)
    assert changes == (name not in EXACT)
    if changes:
        assert not torch.equal(called(made(name, seed=4), x).value, one.value)


@each_name
def test_without_a_generator_torch_s_own_is_drawn_from(name, generator):
    x = torch.randn(50, 3, generator=generator)
    estimator = estimators.get(name)(BITS, vertices=True)
    called(estimator, x)
    values = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            values.append(called(estimator, x).value)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2]) == (name in EXACT)


@each_name
def test_checkpoints_copies_and_pickles_go_on_alike(name, generator):
    x = torch.randn(9, 3, generator=generator)
    estimator = made(name)
    for _ in range(3):
        called(estimator, x)
    file = io.BytesIO()
    torch.save(estimator.state_dict(), file)
    file.seek(0)
    loaded = made(name, seed=77)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    again = [copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator)), loaded]
    want = [called(estimator, x) for _ in range(2)]
    for other in again:
        for out in want:
            got = called(other, x)
            torch.testing.assert_close(got.value, out.value)
            torch.testing.assert_close(got.surrogate, out.surrogate)
        for key, value in estimator.state_dict().items():
            torch.testing.assert_close(other.state_dict()[key], value)


def test_what_is_in_a_checkpoint():
    assert {"average", "steps"} <= set(made("sfe").state_dict())
    assert "temperature" in made("gumbel").state_dict()
    assert "network.first.weight" in made("nvil", context_size=4).state_dict()
    # with a generator into one without, and the other way round
    for one, other in ((made("sfe+"), estimators.get("sfe+")(BITS)), (estimators.get("sfe+")(BITS), made("sfe+"))):
        other.load_state_dict(one.state_dict())


# Names and errors.


def test_every_name_is_there_and_shows_itself():
    names = {*EXACT, *NOISY, "sfe", "sfe+", "nvil", "gumbel", "st-gumbel", "sum-and-sample", "vimco", "disarm"}
    assert names <= set(ESTIMATORS)
    for name in ESTIMATORS:
        assert "BitVector(3" in repr(made(name))
    with pytest.raises(sl.ArgumentError, match="name: got 'reinforce'; expected one of 'softmax', 'sparsemax'"):
        estimators.get("reinforce")


@each_name
def test_errors_of_the_call(name):
    estimator, x = made(name), torch.zeros(2, 3)
    for loss, text in (
        (
            lambda a, i: a,
            r"loss_fn: returned torch\.float32 \(\d+, 3\); expected a tensor of real losses \[N\] with N =",
        ),
        (lambda a, i: a.sum(), r"loss_fn: returned torch\.float32 \(\)"),
        (lambda a, i: 1.0, "loss_fn: returned float"),
        (None, "loss_fn: got NoneType; expected a function"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            estimator(loss, x, context=x)
    with pytest.raises(sl.ArgumentError, match=r"scores: got shape \(2, 4\)"):
        estimator(quadratic, torch.zeros(2, 4), context=x)
    with pytest.raises(sl.ArgumentError, match="scores: NaN or"):
        estimator(quadratic, torch.full((2, 3), torch.nan), context=x)
    with pytest.raises(sl.ArgumentError, match="extra: got 1 tensors"):
        estimator(quadratic, x, x, context=x)
    with pytest.raises(sl.ArgumentError, match="structure: got"):
        estimators.get(name)(sl.LinearChain) if name != "sparsemap-budget" else estimators.get("topk")(sl.LinearChain)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if defined(name, sl.BipartiteMatching(2, 2))])
def test_infeasible_rows_are_named(name):
    structure = sl.BipartiteMatching(2, 2)
    x = torch.zeros(2, 2, 2, 2)
    x[1, 0, :, 0] = -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"row \(1, 0\) \(1 of 4\)"):
        called(made(name, structure), x)


@pytest.mark.parametrize(
    ("name", "structure", "others"),
    [
        ("gumbel", sl.LinearChain(3, 2), "'sparsemap' and 'sfe'"),
        ("st-gumbel", sl.BipartiteMatching(3, 3), "'sparsemap' and 'perturb-and-map'"),
        ("disarm", sl.Categorical(4), "'sparsemap' and 'sfe'"),
        ("sparsemap-budget", sl.LinearChain(3, 2), "'sparsemap' and 'topk'"),
        ("softmax", sl.BitVector(40), "'sparsemap' and 'topk'"),
        *((name, sl.BipartiteMatching(20, 20), "'sparsemap' and 'perturb-and-map'") for name in
          ("sfe", "sfe+", "rloo", "nvil", "vimco", "sum-and-sample")),
    ],
)  # fmt: skip
def test_where_it_is_not_defined_two_others_are(name, structure, others):
    with pytest.raises(
        NotImplementedError, match=rf"{name.replace('+', '.')}: not defined for .*, for .*{others} would do"
    ):
        estimators.get(name)(structure)
    x = torch.zeros(2, *structure.shape)
    extra = [torch.zeros(s) for s in structure.extra_shapes]
    for other in others.replace("'", "").split(" and "):
        called(made(other, structure), x, *extra)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ScoreFunction(BITS, baseline="mean"), "baseline: got 'mean'; expected one of None, 'average'"),
        (lambda: ScoreFunction(BITS, samples=0), "samples: got 0"),
        (
            lambda: ScoreFunction(BITS, baseline="leave-one-out"),
            "samples: got 1; expected a whole number of at least 2",
        ),
        (lambda: ScoreFunction(BITS, baseline="average", momentum=0), "momentum: got 0"),
        (lambda: made("sum-and-sample", k=0), "k: got 0"),
        (lambda: made("sum-and-sample", baseline="average"), "baseline: got 'average'; expected None or 'summed'"),
        (lambda: made("vimco", samples=1), "samples: got 1"),
        (lambda: made("disarm", pairs=0), "pairs: got 0"),
        (lambda: made("gumbel", temperature=0.0), "temperature: got 0.0; expected a finite number above 0"),
        (lambda: made("gumbel", rate=-1.0), "rate: got -1.0"),
        (lambda: made("gumbel", every=0), "every: got 0"),
        (lambda: made("nvil", hidden=0), "hidden: got 0"),
        (lambda: made("nvil", context_size=0), "context_size: got 0"),
        (lambda: made("imle", step=0), "step: got 0"),
        (lambda: made("imle", noise="uniform"), "noise: got 'uniform'"),
        (lambda: made("perturb-and-map", scale=0.0), "scale: got 0.0"),
        (lambda: made("perturb-and-map", baseline="average"), "baseline: got 'average'"),
        (lambda: made("topk", k=0), "k: got 0"),
        (lambda: made("sparsemap", gamma=-1.0) and called(made("sparsemap", gamma=-1.0), torch.zeros(3)), "gamma: got"),
    ],
)
def test_settings_are_checked(make, text):
    with pytest.raises(sl.ArgumentError, match=text):
        make()


# Together.


@each_name
def test_training_finds_the_structure_of_least_loss(name):
    """Four rows, each with a target of its own: every estimator finds them, encoder and decoder trained together."""
    target = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]])
    if name == "sparsemap-budget":
        target = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
    x, w = torch.zeros(4, 3, requires_grad=True), torch.zeros(1, requires_grad=True)
    estimator = made(name, context_size=4) if name == "nvil" else made(name)
    optimizer = torch.optim.Adam([x, w, *estimator.parameters()], lr=0.1)
    rows = 25

    def loss(a, i):
        return (a - target.repeat(rows, 1)[i]).square().sum(-1) + (w - 2).square()

    for _ in range(150):
        out = estimator(loss, x.repeat(rows, 1), context=torch.eye(4).repeat(rows, 1))
        optimizer.zero_grad()
        out.surrogate.mean().backward()
        optimizer.step()
    assert torch.equal(sl.argmax(BITS, x), target), x
    assert abs(float(w.detach()) - 2) < 0.1


def test_loss_of_reads_relaxed_vertices():
    """What the biased ones are measured with is smooth, and not linear."""
    a = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    w = torch.rand(5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: loss_of(w, a), [a])
