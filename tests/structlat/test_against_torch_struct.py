"""Chains and projective trees against torch-struct, at sizes that cannot be enumerated: MAP, k best, sums, marginals.

Its chain scores [B, T - 1, new label, label before] hold the labels' scores too; its trees score [B, head, word], roots
on the diagonal. It writes into what it is given, and was made for an older torch: it gets copies with a graph, and its
warnings are not ours.
"""

import pytest
import torch
import torch_struct

import structlat as sl

K = 4
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=[(3, 12, 5), (2, 20, 3)], ids=str)
def chain(request, generator):
    batch, length, states = request.param
    unary = torch.randn(batch, length, states, generator=generator, dtype=torch.float64)
    transition = torch.randn(batch, length - 1, states, states, generator=generator, dtype=torch.float64)
    potentials = transition.transpose(-1, -2) + unary[:, 1:, :, None]
    potentials[:, 0] += unary[:, 0, None, :]
    return sl.LinearChain(length, states), (unary, transition), torch_struct.LinearChainCRF(potentials)


def labels(edges):
    return torch.cat([edges[..., :1, :, :].sum(-2).argmax(-1), edges.sum(-1).argmax(-1)], -1)


def test_chain(chain):
    space, inputs, peer = chain
    torch.testing.assert_close(space.log_partition(*inputs), peer.partition)
    marginals = torch.cat([peer.marginals[:, :1].sum(2), peer.marginals.sum(3)], 1)
    torch.testing.assert_close(space.marginals(*inputs), marginals)
    assert torch.equal(sl.argmax(space, *inputs), labels(peer.argmax))
    z, valid = space.topk(*inputs, k=K)
    assert valid.all()
    assert torch.equal(z, labels(peer.topk(K)).movedim(0, 1))
    torch.testing.assert_close(sl.Gibbs(space, *inputs).entropy(), peer.entropy)


@pytest.mark.parametrize("multi_root", [True, False])
@pytest.mark.parametrize("words", [2, 7, 13])
def test_projective_trees(generator, words, multi_root):
    space = sl.DependencyTree(words, projective=True, multi_root=multi_root)
    scores = torch.randn(3, words, words + 1, generator=generator, dtype=torch.float64)
    own = torch.arange(words)
    arcs = scores[:, :, 1:].transpose(1, 2).clone()
    arcs[:, own, own] = scores[:, :, 0]
    leaf = arcs.requires_grad_()

    def peer():
        return torch_struct.DependencyCRF(leaf + 0, multiroot=multi_root)

    def heads(arcs):
        """From 0/1 arcs [..., head, word] to heads [..., word]."""
        root = arcs[..., own, own] > 0
        return torch.where(root, 0, arcs.argmax(-2) + 1)

    torch.testing.assert_close(space.log_partition(scores), peer().partition)
    marginals, theirs = space.marginals(scores), peer().marginals.transpose(1, 2)
    torch.testing.assert_close(marginals[:, :, 0], theirs[:, own, own], atol=1e-10, rtol=0)
    apart = ~torch.eye(words, dtype=torch.bool)
    torch.testing.assert_close(marginals[:, :, 1:][:, apart], theirs[:, apart], atol=1e-10, rtol=0)
    assert torch.equal(sl.argmax(space, scores), heads(peer().argmax))
    if words > 2:
        z, valid = space.topk(scores, k=K)
        assert valid.all()
        assert torch.equal(z, heads(peer().topk(K)).movedim(0, 1))
