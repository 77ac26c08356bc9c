"""S4D against its formula in complex float64."""

import math
from typing import get_args

import pytest
import torch

from vqlab.nn.ssm.s4d import S4D, Init, Rule, fft_convolve, initial_modes

INITS, RULES = get_args(Init), get_args(Rule)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def formula(layer, length):
    """K[l] = 2 Re sum_n C_n B_n w_n^l with every power of every mode, (directions, H, L)."""
    a = -layer.log_neg_re.exp() + 1j * layer.im
    dt = layer.log_dt.exp()[:, None]
    if layer.discretization == "zoh":
        w = torch.exp(dt * a)
        b = (w - 1) / a
    else:
        w, b = (1 + dt * a / 2) / (1 - dt * a / 2), dt / (1 - dt * a / 2)
    powers = w[..., None] ** torch.arange(length)
    return 2 * ((torch.complex(layer.c_re, layer.c_im) * b)[..., None] * powers).sum(-2).real


def convolved(x, kernels):
    """The causal convolution plus the anticausal one, sample by sample."""
    length = x.shape[-1]
    y = torch.zeros_like(x)
    for k in range(length):
        y[..., k] += (x[..., : k + 1].flip(-1) * kernels[0][:, : k + 1]).sum(-1)
        if len(kernels) == 2:
            y[..., k] += (x[..., k:] * kernels[1][:, : length - k]).sum(-1)
    return y


def close(found, expected, relative):
    assert (found - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("length", [1, 2, 7, 1000, 1024, 5000])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("init", INITS)
def test_kernel_equals_the_formula(init, rule, length):
    for bidirectional in (False, True):
        layer = S4D(3, 16, init, rule, bidirectional)
        expected = formula(layer, length)
        close(layer.kernel(length), expected if bidirectional else expected[0], 1e-12)
    close(layer.float().kernel(length), formula(layer.double(), length), 1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_layer_equals_the_convolution_with_its_kernel(rule):
    for bidirectional in (False, True):
        for length in (1, 2, 63, 64, 65, 200):
            layer, x = S4D(3, 8, "legs", rule, bidirectional), torch.randn(2, 3, length)
            expected = convolved(x, formula(layer, length)) + layer.d[:, None] * x
            for layer.scan_from in (1, length + 1):  # in chunks and by an FFT
                close(layer(x), expected, 1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("rule", RULES)
def test_steps_and_segments_equal_the_convolution(rule, dtype, bound):
    layer, x = S4D(4, 64, "lin", rule).to(dtype), torch.randn(2, 4, 2000, dtype=dtype)
    whole = [layer(x) for layer.scan_from in (1, 2001)]
    state, rows = layer.initial_state(2), []
    for x_t in x.unbind(-1):
        y_t, state = layer.step(x_t, state)
        rows.append(y_t)
    stepped = torch.stack(rows, -1)
    pieces, at = [], layer.initial_state(2)
    for piece in x.split([1, 129, 870, 64, 936], -1):
        y, at = layer.resume(piece, at)
        pieces.append(y)
    for found in (*whole, torch.cat(pieces, -1)):
        close(found, stepped, bound)
    close(at, state, bound)


@pytest.mark.parametrize(("bidirectional", "scan_from"), [(False, 1), (False, 151), (True, 151)])
def test_gradients_equal_those_of_the_formula(bidirectional, scan_from):
    layer = S4D(2, 8, "inv", bidirectional=bidirectional)
    layer.scan_from = scan_from
    x, weight = torch.randn(2, 2, 150, requires_grad=True), torch.randn(2, 2, 150)
    inputs = [x, *layer.parameters()]
    found = torch.autograd.grad((layer(x) * weight).sum(), inputs)
    y = fft_convolve(x, formula(layer, 150)) + layer.d[:, None] * x
    expected = torch.autograd.grad((y * weight).sum(), inputs)
    for mine, theirs in zip(found, expected, strict=True):
        close(mine, theirs, 1e-10)
    single = layer.float()
    found = torch.autograd.grad((single(x.float()) * weight.float()).sum(), [*single.parameters()])
    for mine, theirs in zip(found, expected[1:], strict=True):
        close(mine.double(), theirs, 1e-4)


def test_initial_modes_equal_those_of_the_papers():
    for init in INITS:
        neg_re, im, b = initial_modes(init, 32)
        assert len(neg_re) == len(im) == len(b) == 32
        assert (neg_re > 0).all()
    # HiPPO-LegS: A + B B^T / 2 is normal; compare with the eigenvalues of the matrix itself
    n = torch.arange(64.0)
    b = (2 * n + 1).sqrt()
    normal = -torch.outer(b, b).tril(-1) - torch.diag(n + 1) + torch.outer(b, b) / 2
    values = torch.linalg.eigvals(normal)
    neg_re, im, _ = initial_modes("legs", 32)
    torch.testing.assert_close(values.real, torch.full((64,), -0.5), atol=1e-9, rtol=0)
    torch.testing.assert_close(values.imag.sort().values[32:], im.sort().values, atol=1e-8, rtol=1e-9)
    assert initial_modes("lin", 3)[1].tolist() == [0, math.pi, 2 * math.pi]
    assert initial_modes("inv", 32)[1][0] == pytest.approx(64 / math.pi * 63)


def test_layer_stays_in_float32_under_autocast_and_compile():
    layer = S4D(4, 16, bidirectional=True).float()
    x = torch.randn(2, 4, 100, dtype=torch.float32)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
        assert (layer(x.bfloat16()) - expected).abs().max() < 0.1
    graph = torch.compile(lambda: layer.kernel(100), fullgraph=True, backend="eager")
    torch.testing.assert_close(graph(), layer.kernel(100))


def test_bidirectional_layer_is_a_causal_pass_plus_a_flipped_one():
    both, x = S4D(3, 16, bidirectional=True), torch.randn(2, 3, 301)
    y = both.d[:, None] * x
    for direction, flip in enumerate((lambda signal: signal, lambda signal: signal.flip(-1))):
        one = S4D(3, 16)
        state = {name: v[direction : direction + 1] if "c_" in name else v for name, v in both.state_dict().items()}
        one.load_state_dict(state | {"d": torch.zeros(3)})
        y = y + flip(one(flip(x)))
    close(both(x), y, 1e-10)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_tapered_layer_is_the_mean_over_all_windows_that_contain_a_sample(bidirectional):
    layer, x, length = S4D(3, 8, bidirectional=bidirectional).double(), torch.randn(2, 3, 90).double(), 20
    layer.scan_from = 1
    windows = layer(x.unfold(2, length, 1).transpose(1, 2).flatten(0, 1)).unflatten(0, (2, -1))  # (B, starts, H, L)
    layer.taper = length
    y = layer(x)
    for sample in range(length - 1, 90 - length + 1):
        found = torch.stack([windows[:, sample - place, :, place] for place in range(length)])
        torch.testing.assert_close(y[..., sample], found.mean(0), rtol=1e-9, atol=1e-9)
    assert layer(x[..., :7]).shape == (2, 3, 7)
